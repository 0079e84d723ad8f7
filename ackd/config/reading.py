"""Builds options from plain values by name, for Python, environment ids and files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ackd.config.options import DataConfig
from ackd.config.other_names import ours
from ackd.errors import InputError, short, unknown

LARGEST = 2**31  # integers stay below this
EARLIER = {"types": "knowledge", "compiled": "compile", "cosines": "gradient_cosines"}  # old name: new name
WORDS = {
    int: "a whole number below 2^31", float: "a number", str: "text", bool: "true or false", NoneType: "null",
    dict: "an object with fields", list: "a list",
}  # fmt: skip

Options = TypeVar("Options")


@cache
def hints(*groups: type) -> dict[str, Any]:
    """The type of each option in the groups, by option name."""
    found: dict[str, Any] = {}
    for group in groups:
        types = get_type_hints(group)
        found |= {field.name: types[field.name] for field in fields(group)}
    return found


def names_of(*groups: type) -> tuple[str, ...]:
    """The names of the options in the groups."""
    return tuple(hints(*groups))


def part(options: Any, *groups: type) -> dict[str, Any]:
    """The values in `options` that belong to the groups, by option name.

    Example:
        prepare(task="sst2", **part(command, DataConfig, TrainingConfig))
    """
    return {name: getattr(options, name) for name in names_of(*groups)}


def cut(options: DataConfig) -> dict[str, Any]:
    """The options that split the data, as keyword arguments of `ackd.tasks.load`."""
    names = [name for name in names_of(DataConfig) if name not in ("data", "dev_data", "data_seed")]
    return {name: getattr(options, name) for name in names} | {"seed": options.data_seed}


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings under their current names.

    Raises:
        InputError: if a setting is given under both its old and its new name.
    """
    found = {EARLIER.get(name, name): value for name, value in settings.items()}
    for old, new in EARLIER.items():
        if old in settings and new in settings:
            raise InputError(f"{old} is the earlier name of {new}, and both are given: give {new} alone")
    return found


def checked(group: type[Options], settings: Mapping[str, Any], *, others: Sequence[str] = ()) -> Options:
    """Builds the options of a group from plain values.

    Args:
        group: one of the option classes.
        settings: values by option name; lists become tuples, and paths become strings.
        others: further names that error messages may suggest for a mistyped name.

    Raises:
        InputError: if an option does not exist, or a value has the wrong type.
    """
    known: dict[str, Any] = hints(group)  # type: ignore[arg-type]  # a class is hashable
    plain = {name: _plain(value) for name, value in renamed(settings).items()}
    for given in settings:
        name = EARLIER.get(given, given)
        if name not in known:
            if meant := ours(name, known):
                raise InputError(f"unknown setting {given!r}: did you mean {meant!r}?")
            raise unknown("setting", given, (*known, *others))
        if not fits(plain[name], known[name]):
            raise wrong(given, plain[name], known[name])
    return group(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})


def _plain(value: Any) -> Any:
    """Converts a value to its JSON form."""
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type, for example `int | None` or `tuple[str, ...]`."""
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        kinds = [one for one in get_args(hint) if one is not Ellipsis]
        long = Ellipsis in get_args(hint) or (isinstance(value, list) and len(value) == len(kinds))
        return isinstance(value, list) and long and all(fits(item, kinds[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # neither NaN nor infinity
    return type(value) is hint and (hint is not int or abs(value) < LARGEST)


def words(hint: Any) -> str:
    """Describes a type in words, for error messages."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(words(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        kind = words(get_args(hint)[0])
        return f"a list, each {kind}" if Ellipsis in get_args(hint) else f"a list of {len(get_args(hint))}, each {kind}"
    return WORDS[hint]


def wrong(name: str, value: Any, hint: Any) -> InputError:
    """The error for a value of the wrong type; for a literal it suggests the nearest choice."""
    choices = [one for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for one in get_args(kind)]
    if choices and isinstance(value, str):
        return unknown(name, value, choices)
    return InputError(f"{name} must be {words(hint)}, not {short(value)}")
