"""Reads instances, the settings that policies are trained and tested in, from JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from ackd.config import EARLIER, EpisodeConfig, RecipeConfig, SettingConfig, fits, hints, names_of, renamed, wrong
from ackd.errors import InputError, unknown
from ackd.files.schema import Object, only, parse, read_bytes
from ackd.knowledge import DEFAULT, SENTENCES, listed, name_of
from ackd.tasks import EMBEDDINGS
from ackd.training.recipe import Recipe, check_length

SETS = Path(__file__).parent / "instance_sets"
MAX_BYTES, MAX_INT = 1_000_000, 2**31
MODELS, DATA = ("teacher", "student"), ("data", "dev_data")  # settings that are paths
LENGTH = ("steps", "epochs")  # one of them sets the length of a training
MACHINE = ("device", "cache", "cache_budget", "cache_reads", "cache_device_memory", "precision", "compile")
# fields of a setting beyond those of `SettingConfig` and `EpisodeConfig`
BESIDE: dict[str, Any] = {
    "task": str, "teacher": str | tuple[str, ...], "scale_steps": int, "choice": str, "observe_cls": bool,
    "levels": tuple[float, ...] | None, "reward_every": int | None,
}  # fmt: skip
NOT_HERE = dict.fromkeys(MACHINE, "belongs to the machine, so leave it to the caller") | {
    "k_max": "is one for all instances, so leave it to the caller",
    "render_mode": "is no setting, since there is nothing to see of a training",
    **dict.fromkeys(("keep", "score", "options"), "goes with a preset, and instances name types instead"),
    "preset": "leaves nothing to choose between types, so name types instead",
}


@with_config(ConfigDict(extra="allow"))
class Item(TypedDict):
    """One instance in a file; all other fields are its settings."""

    name: Annotated[str, Field(min_length=1)]
    split: Annotated[str, Field(min_length=1)]
    seeds: tuple[int, int]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class SetFile:
    """The content of a file; settings have the names of `SettingConfig` and `EpisodeConfig`."""

    format: Annotated[int, only(1)]
    instances: Annotated[list[Item], Field(min_length=1)]
    defaults: Object = field(default_factory=dict)
    name: str = ""
    description: str = ""


OWN = tuple(Item.__annotations__)


@dataclass(frozen=True)
class Instance:
    """A setting, and the seeds of the students that are trained in it.

    Args:
        name: unique in its set.
        split: what the instance is for, such as train, unseen-task or longer-budget.
        setting: keyword arguments of `ackd.envs.make.distill`.
        seeds: the first seed, and the number of seeds.

    Raises:
        InputError: if there are no seeds, or they are out of range.
    """

    name: str
    split: str
    setting: Mapping[str, Any]
    seeds: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", renamed(self.setting))
        first, count = self.seeds
        if first < 0 or count < 1 or first + count > MAX_INT:
            raise InputError(
                f"instance {self.name!r}: seeds is [{first}, {count}]: give the first, at least 0, and how many, "
                "at least 1, all below 2^31"
            )

    @property
    def knowledge(self) -> tuple[str, ...]:
        """The names of its knowledge types, in the order of the action's bits."""
        usual = SENTENCES if self.setting.get("task") == EMBEDDINGS else DEFAULT
        types, teachers = self.setting.get("knowledge") or usual, self.setting.get("teacher", "")
        kinds = [name_of(one).partition("@") for one in listed(types)]
        if not isinstance(teachers, (list, tuple)) or len(teachers) < 2:
            return tuple(kind for kind, _, _ in kinds)
        indices = range(1, len(teachers) + 1)
        return tuple(f"{kind}@{m}" for m in indices for kind, _, place in kinds if place in ("", str(m)))

    @property
    def published(self) -> dict[str, Any]:
        """The instance as plain JSON for a policy's card, without local paths."""
        told: dict[str, Any] = {"name": self.name, "split": self.split, "seeds": list(self.seeds)}
        written = {new: old for old, new in EARLIER.items()}  # cards keep the earlier names
        for name, value in self.setting.items():
            if name in MODELS and value is not None:
                told[name] = _named(value)
            elif name not in (*DATA, *MACHINE, "tokenizer"):
                told[written.get(name, name)] = _told(value)
        return told

    def seed(self, episode: int) -> int:
        """The student's seed in an episode (numbered from 0); after the last seed, the first follows again."""
        first, count = self.seeds
        return first + episode % count


def _named(model: Any) -> Any:
    """A model's name without its parent folder; a list of names for several models."""
    if isinstance(model, (list, tuple)):
        return [_named(one) for one in model]
    folder = model if isinstance(model, (str, Path)) else getattr(model, "name_or_path", "")
    return Path(folder).name if folder else type(model).__name__


def _told(value: Any) -> Any:
    """The value as plain JSON; an object is replaced by its name."""
    if isinstance(value, (list, tuple)):
        return [_told(one) for one in value]
    if value is None or isinstance(value, (str, int, float, dict)):
        return value
    return str(getattr(value, "name", "") or getattr(value, "__name__", type(value).__name__))


def over(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merges settings; `own` overrides `given`, and own steps also replace given epochs, or the reverse."""
    long = any(own.get(name) is not None for name in LENGTH)
    return {name: value for name, value in given.items() if not (long and name in LENGTH)} | dict(own)


def shipped() -> tuple[str, ...]:
    """The names of the instance sets that ship with ackd."""
    return tuple(sorted(path.stem for path in SETS.glob("*.json")))


def read_instances(
    source: str | Path, *, teachers: Path | None = None, data: Path | None = None, split: str | None = None
) -> tuple[Instance, ...]:
    """Reads the instances in a JSON file, or in a set that ships with ackd.

    Args:
        source: path of the file, or name of the set.
        teachers: folder for relative names of models; the file's own folder if None.
        data: folder for relative names of data; the file's own folder if None. If given, GLUE tasks that name no data
            are read from it instead of the hub.
        split: returns only the instances of this split.

    Raises:
        InputError: if the content is invalid; the message names file, instance and field.
    """
    path, ours = _find(source)
    where = f"the instance set {path.stem}" if ours else str(path)
    file = _parse(path, where)
    own = None if ours else path.parent
    defaults = _checked(file.defaults, f"{where}, defaults")
    instances = [_instance(item, defaults, where) for item in file.instances]
    names = [one.name for one in instances]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: the name {name!r} is given to {names.count(name)} instances: make it unique")
    if split is not None:
        if split not in {one.split for one in instances}:
            raise unknown(f"split of {where}", split, {one.split for one in instances})
        instances = [one for one in instances if one.split == split]
    if ours and teachers is None:
        wanted = sorted({name for one in instances for name in _several(one.setting["teacher"])})
        raise InputError(f"{where} needs the folder of its teachers ({', '.join(wanted)}). {file.description}")
    return tuple(
        _placed(one, teachers or own, data or own, data, f"{where}, instance {one.name!r}") for one in instances
    )


def _find(source: str | Path) -> tuple[Path, bool]:
    """The path of the file, and whether it ships with ackd."""
    if source in shipped():
        return SETS / f"{source}.json", True
    path = Path(source)
    if os.path.isfile(path):
        return path, False
    if isinstance(source, str) and path.name == source and path.suffix != ".json":
        raise unknown("instance set", source, shipped())
    raise InputError(f"there is no file {path}: give a JSON file, or one of {', '.join(shipped())}")


def _parse(path: Path, where: str) -> SetFile:
    """Parses the file and checks the types of its fields."""
    text = read_bytes(path, MAX_BYTES)
    try:
        json.loads(text, object_pairs_hook=_once)
        return parse(text, SetFile, extra=None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no instance set: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Rejects duplicate names, because JSON parsers silently keep the last one."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return fields


def _instance(item: Item, defaults: Mapping[str, Any], file: str) -> Instance:
    where = f"{file}, instance {item['name']!r}"
    own = {name: value for name, value in cast(Object, item).items() if name not in OWN}
    setting = over(defaults, _checked(own, where))
    for name in ("task", "teacher"):
        if not setting.get(name):
            raise InputError(f"{where} names no {name}: give it there or in the defaults")
    try:
        check_length(*(setting.get(name) for name in LENGTH))
        Recipe.of({name: setting.get(name) for name in names_of(RecipeConfig)})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    try:
        return Instance(item["name"], item["split"], setting, item["seeds"])
    except InputError as error:
        raise InputError(f"{file}, {error}") from error


@cache
def _hints() -> dict[str, Any]:
    """The type of each setting by its name."""
    known = {**BESIDE, **hints(SettingConfig, EpisodeConfig)}
    return {name: hint for name, hint in known.items() if name not in NOT_HERE}


def _checked(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Checks the names and types of settings; returns current names, and lists as tuples."""
    for given, value in settings.items():
        name = EARLIER.get(given, given)
        if name in NOT_HERE:
            raise InputError(f"{where}: {given} {NOT_HERE[name]}")
        if name not in _hints():
            raise unknown(f"field of {where}", given, {*_hints(), *OWN})
        if not fits(value, _hints()[name]):
            raise InputError(f"{where}: {wrong(given, value, _hints()[name])}")
    try:
        settings = renamed(settings)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _several(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _placed(instance: Instance, models: Path | None, data: Path | None, glue: Path | None, where: str) -> Instance:
    """The instance with resolved paths; checks that its teachers exist."""
    from ackd.tasks import GLUE

    setting = dict(instance.setting)
    for name, folder in (*((name, models) for name in MODELS), *((name, data) for name in DATA)):
        paths = []
        for given in _several(setting.get(name) or ()):
            if folder is None and not Path(given).is_absolute():
                raise InputError(f"{where}: {name} is {given!r}, and nobody said in which folder: give it as data")
            paths.append(str((folder or Path()) / given))
        if paths:
            setting[name] = paths[0] if isinstance(setting[name], str) else tuple(paths)
    for path in _several(setting["teacher"]):
        if not os.path.exists(path):
            raise InputError(
                f"{where}: the teacher {path} is not there: make it as `ackd finetune --task {setting['task']} "
                f"--output {path}` does, or say in which folder teachers are"
            )
    if glue is not None and "data" not in setting and setting["task"] in GLUE:
        setting["data"] = str(glue)
    return Instance(instance.name, instance.split, setting, instance.seeds)
