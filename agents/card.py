"""What a policy's JSON says of it. The file may be anything: each field is checked, and none is ever executed."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS, SCHEMA

FORMAT = 2
LICENSE = "Apache-2.0"
MAX_CARD = 1 << 18  # bytes
MAX_K = 1024
MAX_TEXT = 200  # characters of a name
MAX_DEPTH = 8  # objects and lists inside one another
MAX_DIGITS = 300  # of a whole number, so that it has a float
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FIELDS: dict[str, type] = {
    "format": int,
    "name": str,
    "kind": str,
    "choice": str,
    "schema": int,
    "globals": list,
    "features": list,
    "knowledge": list,
    "k_max": int,
    "sizes": dict,
    "algorithm": str,
    "instances": list,
    "metrics": dict,
    "cost": dict,
    "license": str,
    "versions": dict,
    "sha256": str,
}


@dataclass(frozen=True)
class Card:
    """Where a policy comes from, and for what it was made.

    Args:
        name: what the store calls it, unless it is told another name.
        kind: what network it is, one of `ackd.agents.store.KINDS`.
        choice: the action space that it acts in, one of `ackd.mdp.action_spaces.CHOICES`.
        schema: of the observations that it reads.
        sizes: what rebuilds the network.
        knowledge: names of the knowledge types of its training, in the order of the action's entries.
        k_max: entries of the action it is meant for; a set network takes any number.
        algorithm: what trained it, as in `a2c`.
        instances: what it was trained on.
        metrics: how well it did.
        cost: what its learning took: episodes, student_steps, flops, seconds.
        license: under which it may be used, as in SPDX.
        versions: of the packages that saved it.
        sha256: of the weights' file.
    """

    name: str
    kind: str
    choice: str
    schema: int
    sizes: Mapping[str, int]
    knowledge: tuple[str, ...]
    k_max: int
    algorithm: str
    instances: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, Any]
    cost: Mapping[str, float]
    license: str
    versions: Mapping[str, str]
    sha256: str


def check_name(name: str) -> None:
    """Refuse what cannot be a policy's name: it becomes a folder's.

    Raises:
        InputError: if it is none.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{reprlib.repr(name)} cannot be a policy's name: up to 64 of a-z, 0-9, '.', '_' and '-', "
            "and the first a letter or digit"
        )


def read_card(data: bytes, where: object, kinds: Collection[str]) -> Card:
    """The card in a JSON's bytes; what is in `sizes` is for the kind to judge.

    Raises:
        InputError: if it is no policy's, was made for other observations, or has something of a wrong type.
    """
    fields = _fields(data, where, kinds)
    for name, known in (("globals", GLOBALS), ("features", FEATURES)):
        if fields[name] != list(known):
            raise InputError(_difference(f"{where}: the policy was made for other {name}", fields[name], known))
    if not 1 <= fields["k_max"] <= MAX_K:
        raise InputError(f"{where} has k_max {fields['k_max']}: it must be between 1 and {MAX_K}")
    check_name(fields["name"])
    knowledge = fields["knowledge"]
    if len(knowledge) > MAX_K or not all(map(_named, knowledge)) or len(set(knowledge)) < len(knowledge):
        raise InputError(f"{where} has the knowledge types {reprlib.repr(knowledge)}: they must be different names")
    for name in ("algorithm", "license"):
        if not _named(fields[name]):
            raise InputError(f"{where} has the {name} {reprlib.repr(fields[name])}: it must be a short printable name")
    if not all(isinstance(instance, dict) for instance in fields["instances"]):
        raise InputError(f"{where} has instances that are not JSON objects")
    if not all(map(_named, (*fields["versions"], *fields["versions"].values()))):
        raise InputError(f"{where} has versions that are not short printable names")
    for name, value in fields["cost"].items():
        if not _named(name) or type(value) not in (int, float) or value < 0:
            raise InputError(f"{where} has the cost {reprlib.repr({name: value})}: costs are numbers from 0 up")
    checked = {"knowledge": tuple(knowledge), "instances": tuple(fields["instances"])}
    return Card(**{name: (fields | checked)[name] for name in Card.__dataclass_fields__})


def _fields(data: bytes, where: object, kinds: Collection[str]) -> dict[str, Any]:
    """The JSON's fields: the right ones, each of its type."""
    try:
        fields = json.loads(data.decode(), parse_constant=_refuse, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): save the policy again") from error
    if not isinstance(fields, dict):
        raise InputError(f"{where} is not a policy's: it holds a JSON {type(fields).__name__}, not an object")
    # Before the names of the fields, which another format may have changed.
    for name, known in (("format", [FORMAT]), ("schema", [SCHEMA]), ("kind", sorted(kinds))):
        if name in fields and fields[name] not in known:
            raise InputError(
                f"{where} has {name} {reprlib.repr(fields[name])}, this version of ackd reads "
                f"{', '.join(map(repr, known))}: use the version that saved it, or train the policy again"
            )
    missing, surplus = sorted(FIELDS.keys() - fields), sorted(fields.keys() - FIELDS)
    if missing or surplus:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(surplus)}"] * bool(surplus)
        raise InputError(f"{where} {' and '.join(parts)}: save the policy again")
    for name, kind in FIELDS.items():
        if type(fields[name]) is not kind:  # not isinstance: true is no number
            raise InputError(f"{where} has a {name} of type {type(fields[name]).__name__}, not {kind.__name__}")
    if _deeper(fields, MAX_DEPTH):
        raise InputError(f"{where} has more than {MAX_DEPTH} objects or lists inside one another: no policy needs that")
    return fields


def _named(value: object) -> bool:
    """Whether it is text that can be shown on a terminal."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_TEXT


def _some(values: Iterable[object]) -> str:
    """The first few, shown so that nothing in them can reach a terminal."""
    shown = [str(value) if _named(value) else reprlib.repr(value) for value in values]
    return ", ".join(shown[:20] + ["..."] * (len(shown) > 20))


def _difference(what: str, has: Sequence[Any], known: Sequence[str]) -> str:
    ours, theirs = [name for name in known if name not in has], [name for name in has if name not in known]
    if not ours and not theirs:  # only the order or a repetition differs: show all of it
        ours, theirs = list(known), list(has)
    return f"{what}: it has {_some(theirs) or 'none besides'}, this version has {_some(ours) or 'none besides'}"


def _deeper(value: object, most: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(parts) and (most == 0 or any(_deeper(part, most - 1) for part in parts))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError("a number is too large")
    return float(text)


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)
