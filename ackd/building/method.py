"""Creates the knowledge types, or the parts of a published method, for each student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ackd import knowledge, presets
from ackd.config import SettingConfig
from ackd.errors import InputError
from ackd.types import Knowledge, ModelDims

Types: TypeAlias = Sequence[str | Knowledge | knowledge.NewKnowledge]


def method_of(
    types: Types, options: Mapping[str, Any], student: ModelDims, teachers: Sequence[ModelDims], config: SettingConfig
) -> Callable[[], presets.Preset]:
    """Returns a function that creates the losses and other parts of a method; it is called for each student.

    Args:
        types: the types that can be selected; empty for a preset with its own losses.
        options: options of the preset.
        student: the student's sizes.
        teachers: the sizes of each teacher.
        config: preset, layer map and temperature.

    Raises:
        InputError: if the options need a preset, or options or types do not fit the preset.
    """
    types, preset, layers = knowledge.listed(types), config.preset, config.layer_map
    if preset is None:
        if options:
            raise InputError(f"only a preset takes {' and '.join(options)}: name one with --preset")
    elif not types:
        return lambda: presets.preset(preset, student, teachers, **options, layers=layers)
    wanted = _by_teacher(types or knowledge.DEFAULT, len(teachers))

    def make() -> presets.Preset:
        method = presets.Preset()
        if preset is not None:
            method = presets.preset(preset, student, teachers, **options)
            if not method.gives_way:
                given = ", ".join(map(_name, types))
                raise InputError(f"the preset {preset!r} brings its own knowledge types: leave {given} away")
        losses = [
            one
            for m, those in enumerate(wanted)
            for one in knowledge.build(
                those,
                student,
                teachers[m],
                layers=layers or "uniform",
                temperature=config.temperature,
                teacher_place=m,
                suffix=f"@{m + 1}" if len(teachers) > 1 else "",
            )
        ]
        return replace(method, knowledge=losses, stages=())

    return make


def preset_options(config: SettingConfig, given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """The options of the preset: `keep` and `score`, and others given by name or as NAME=VALUE.

    Raises:
        InputError: if an option is not written as NAME=VALUE, is given twice, or has an invalid value.
    """
    found = {name: value for name in ("keep", "score") if (value := getattr(config, name)) is not None}
    for name, value in (given if isinstance(given, Mapping) else pairs(given)).items():
        if name in found:
            raise InputError(f"the option {name!r} is given twice: give it once")
        found[name] = value
    return presets.parse(config.preset, found)


def pairs(texts: Iterable[str]) -> dict[str, Any]:
    """Parses texts of the form NAME=VALUE.

    Raises:
        InputError: if a text has another form, or a name is given twice.
    """
    given: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise InputError(f"the option {text!r} cannot be read: write it as NAME=VALUE")
        if name in given:
            raise InputError(f"the option {name!r} is given twice: give it once")
        given[name] = value
    return given


def _name(one: str | Knowledge | knowledge.NewKnowledge) -> str:
    return one if isinstance(one, str) else str(getattr(one, "name", getattr(one, "__name__", one)))


def _by_teacher(types: Types, teachers: int) -> list[list[str | Knowledge | knowledge.NewKnowledge]]:
    """The types of each teacher: `logits@2` belongs to the second teacher, `logits` to all teachers."""
    wanted: list[list[str | Knowledge | knowledge.NewKnowledge]] = [[] for _ in range(teachers)]
    for one in types:
        kind, place = one, ""
        if isinstance(one, str):
            kind, _, place = one.partition("@")
        if place and not (place.isdigit() and 1 <= int(place) <= teachers):
            many = f"write {kind}@1 to {kind}@{teachers}, or {kind} for every one"
            raise InputError(f"{one!r} names no teacher: {many if teachers > 1 else f'there is one, so write {kind}'}")
        for m in [int(place) - 1] if place else range(teachers):
            wanted[m].append(kind)
    return wanted
