"""`--config FILE`: reads options from a file or a recipe; options on the command line take precedence."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import tyro

from ackd.cli.commands import Option, commands, options_of
from ackd.cli.words import nearest
from ackd.config import EARLIER, fits, wrong
from ackd.errors import InputError
from ackd.files.yaml_file import Entry, read_entries

RECIPES = Path(__file__).with_name("recipes")  # COMMAND/NAME.yaml
INSTEAD = frozenset({"steps", "epochs", "flops"})  # alternatives for the length of a training

Kind = TypeVar("Kind")


def read_settings(command: str, path: str, said: Collection[str]) -> dict[str, Any]:
    """Reads the options in a file or a recipe that are not on the command line.

    Args:
        command: name of the command, such as `distill`.
        path: a YAML file, or the name of a recipe that comes with the package; the keys are option names.
        said: names of the options on the command line; one of `INSTEAD` replaces the others.

    Raises:
        InputError: if the file cannot be read, or a key or a value is wrong.
    """
    options, lines, found = options_of(commands()[command]), dict[str, int](), dict[str, Any]()
    displaced = _displaced(said)
    try:
        entries = read_entries(_file(command, path))
    except InputError as error:
        raise InputError(f"--config cannot be followed: {error}") from None
    for entry in entries:
        where = f"{path}, line {entry.line}"
        name = entry.key.replace("-", "_")
        name = name if name in options else EARLIER.get(name, name)
        if name not in options:
            raise _unknown(command, where, entry.key)
        if name in lines:
            raise InputError(f"{where}: {entry.key} stands on line {lines[name]} already: say it once")
        lines[name] = entry.line
        value = _value(options[name], entry, where)
        if name not in displaced:
            found[name] = value
    return found


def recipes(command: str) -> dict[str, Path]:
    """The recipes for a command that come with the package, by name."""
    return {path.stem: path for path in sorted((RECIPES / command).glob("*.yaml"))}


def _file(command: str, path: str) -> Path:
    """The file that `--config` names. A file wins over a recipe.

    Raises:
        InputError: for a word that is neither.
    """
    known = recipes(command)
    if Path(path).exists() or Path(path).name != path or Path(path).suffix or not known:
        return Path(path)
    if path not in known:
        raise InputError(f"there is no file or recipe {path}: ackd {command} has the recipes {', '.join(known)}")
    return known[path]


def resumed_settings(command: str, folder: str, said: Collection[str]) -> dict[str, Any]:
    """The original options of a run that the resuming call does not give.

    Args:
        command: name of the command, such as `distill`.
        folder: the run's folder.
        said: names of the given options; one of `INSTEAD` replaces the others.

    Raises:
        InputError: if the options in the folder cannot be read.
    """
    from ackd.runs.folder import CONFIG, FREE, settings_of

    options, path = options_of(commands()[command]), Path(folder)
    kept = {name: option for name, option in options.items() if name not in {*_displaced(said), *FREE}}
    begun = {EARLIER.get(name, name): value for name, value in settings_of(path, command).items()}
    return {
        name: _value(kept[name], Entry(name, value, 0), str(path / CONFIG))
        for name, value in begun.items()
        if name in kept and value != _as_json(kept[name].default)
    }


def _as_json(default: Any) -> Any:
    return [*default] if isinstance(default, tuple) else default


def _displaced(said: Collection[str]) -> set[str]:
    return {*said, *(INSTEAD if INSTEAD & {*said} else ())}


def _value(option: Option, entry: Entry, where: str) -> Any:
    """Converts a value to the type of the command's field."""
    value = entry.value
    if get_origin(option.kind) is tuple and not isinstance(value, list) and value is not None:
        value = [value]  # a single value needs no brackets
    if not fits(value, option.hint):
        raise InputError(f"{where}: {wrong(entry.key, value, option.hint)}")
    if "" in (value if isinstance(value, list) else [value]):
        raise InputError(f"{where}: {entry.key} is empty: give a value, or leave the line away")
    if option.kind is float and value is not None:
        return float(value)
    if isinstance(value, list):
        return tuple(float(one) if get_args(option.kind)[0] is float else one for one in value)
    return value


def _unknown(command: str, where: str, key: str) -> InputError:
    if key == "model_type":
        return InputError(f"{where}: model_type is of a model's config, and no option: name that with --student")
    return InputError(f"{where}: ackd {command} has no option {key!r}{nearest(command, key.replace('-', '_'), '')}")


def with_settings(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """A command object that only holds defaults for tyro; it is incomplete and never runs."""
    one = object.__new__(kind)
    for option in options_of(kind).values():  # type: ignore[arg-type]  # a class is hashable
        default = tyro.MISSING if option.required else option.default
        object.__setattr__(one, option.name, values.get(option.name, default))
    return one
