"""Published methods by name, as settings of the same parts; compatible methods can be combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from ackd.config.methods import presets_of
from ackd.errors import InputError, unknown
from ackd.presets import collaborative, dynamickd, learned, reffakd, revision, static
from ackd.presets.preset import Material, Method, Preset
from ackd.types import ModelDims, Teacher
from ackd.weighting.weighting import Together, Weighting, together

__all__ = ["METHODS", "NAMES", "Material", "Method", "Preset", "named", "parse", "preset", "read"]

METHODS: Mapping[str, Method] = {
    one.name: one for module in (static, dynamickd, revision, reffakd, collaborative, learned) for one in module.METHODS
}
NAMES = tuple(METHODS)


def named(names: str) -> list[Method]:
    """The methods of one name, or of several names joined by commas.

    Raises:
        InputError: for an unknown name, or a name that is given twice.
    """
    return [METHODS[name] for name in presets_of(names)]


def preset(names: str, student: ModelDims, teachers: Sequence[ModelDims], **options: Any) -> Preset:
    """Makes a preset for these models from the name of a method, or of several combined ones.

    At most one of several may have losses that do not give way; their picks, weights and revisions are combined.

    Args:
        names: one of `METHODS`, or several joined by commas.
        student: the student's sizes.
        teachers: the teachers' sizes.
        **options: options of the methods by name; None counts as not given.

    Raises:
        InputError: for an unknown name or option, or a combination or models that do not fit the methods.
    """
    wanted = named(names)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name == "layers" and not any(name in one.defaults for one in wanted):
            raise InputError(f"the preset {names!r} matches no layers: leave the layer map away")
        if not any(name in one.defaults for one in wanted):
            takers = [one.name for one in METHODS.values() if name in one.defaults]
            if takers:
                raise InputError(f"{name!r} is no option of the preset {names!r}, but of {', '.join(takers)}")
            raise unknown(f"option of the preset {names!r}", name, {own for one in wanted for own in one.defaults})
    made = []
    for one in wanted:
        least, most = one.teachers
        if not least <= len(teachers) <= most:
            wants = f"{least}" if least == most else f"at least {least}" if len(teachers) < least else f"at most {most}"
            raise InputError(
                f"the preset {one.name!r} takes {wants} teacher{'s' * (wants != '1')}, and {len(teachers)} "
                f"{'was' if len(teachers) == 1 else 'were'} named with --teacher"
            )
        try:
            own = {name: value for name, value in given.items() if name in one.defaults}
            made.append((one.name, one.make(student, teachers, **own)))
        except InputError as error:
            raise InputError(f"the preset {one.name!r} cannot be used so: {error}") from error
    return _combined(made)


def parse(names: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Parses options of presets; each value gets the type of its default.

    Raises:
        InputError: if a value cannot be read as this type.
    """
    wanted = named(names) if names else ()
    known = {name: default for one in wanted for name, default in one.defaults.items()}
    return {name: read(name, value, known.get(name)) for name, value in options.items()}


def read(name: str, value: Any, default: Any) -> Any:
    """Parses the value of an option to the type of its default.

    Raises:
        InputError: if it cannot be read as this type.
    """
    if not isinstance(value, str) or default is None or isinstance(default, str):
        return value
    if isinstance(default, bool):
        if value.lower() in ("yes", "true", "1", "no", "false", "0"):
            return value.lower() in ("yes", "true", "1")
        raise InputError(f"the option {name} is yes or no, not {value!r}")
    try:
        return type(default)(value)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InputError(f"the option {name} is {kind}, not {value!r}") from None


def _combined(made: Sequence[tuple[str, Preset]]) -> Preset:
    """Combines several presets into one."""
    if len(made) == 1:
        return made[0][1]
    own = [(name, one) for name, one in made if one.knowledge and not one.gives_way]
    if len(own) > 1:
        raise InputError(
            f"the presets {' and '.join(name for name, _ in own)} both say which losses there are: name one of them"
        )
    losses = own[0][1] if own else next(one for _, one in made if one.knowledge)
    example_filter = [one.example_filter for _, one in made if one.example_filter is not None]
    if len(example_filter) > 1:
        raise InputError("two of the presets thin the batches: name one of them")
    revisions = [one.revise for _, one in made if one.revise is not None]
    weighings = [one.weigh for _, one in made if one.weigh is not None]

    def revise(teachers: Any, material: Material) -> Any:
        for change in revisions:
            teachers = change(teachers, material)
        return teachers

    def weigh(teachers: Sequence[Teacher], material: Material) -> Weighting:
        return reduce(Together, [one(teachers, material) for one in weighings])

    return Preset(
        losses.knowledge,
        losses.stages,
        together([one.weighting for _, one in made if one.weighting is not None]),
        example_filter[0] if example_filter else None,
        revise if revisions else None,
        weigh if weighings else None,
        reduce(lambda told, one: {**one.recipe, **told}, (losses, *(one for _, one in made)), {}),
        gives_way=not own,
    )
