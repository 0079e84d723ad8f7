"""What a policy's JSON says of it. The file may be anything: each field is checked, and none is ever executed."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field

from ackd.errors import InputError, short
from ackd.files.schema import Object, only, parse
from ackd.mdp.observations import FEATURES, GLOBALS, SCHEMA

FORMAT = 2
LICENSE = "Apache-2.0"
MAX_CARD = 1 << 18  # bytes
MAX_K = 1024
MAX_DEPTH = 8  # objects and lists inside one another
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """Refuse what cannot be a policy's name: it becomes a folder's.

    Raises:
        InputError: if it is none.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{reprlib.repr(name)} cannot be a policy's name: up to 64 of a-z, 0-9, '.', '_' and '-', "
            "and the first a letter or digit"
        )
    return name


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it should be a short printable name")
    return text


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("they should be different names")
    return names


def _plain(content: Any, levels: int = MAX_DEPTH) -> Any:
    """Refuses what a page could not show: NaN, infinity, numbers without a float, and what is nested deeply."""
    if isinstance(content, dict | list):
        if not levels:
            raise ValueError(f"it has more than {MAX_DEPTH} objects or lists inside one another")
        for part in content.values() if isinstance(content, dict) else content:
            _plain(part, levels - 1)
    elif isinstance(content, int | float) and not abs(content) <= sys.float_info.max:
        raise ValueError("it has NaN, infinity or too large a number")
    return content


def _cost(value: Any) -> Any:
    if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
        raise ValueError("costs are numbers from 0 up")
    return value


def _these(known: Sequence[str]) -> AfterValidator:
    """Refuses a policy that reads other observations, and says which."""

    def check(has: list[str]) -> list[str]:
        ours, theirs = [name for name in known if name not in has], [name for name in has if name not in known]
        if has != list(known):
            if not ours and not theirs:  # only the order or a repetition differs: show all of it
                ours, theirs = list(known), has
            told, here = (short(names) if names else "none besides" for names in (theirs, ours))
            raise ValueError(f"the policy was made for others: it has {told}, this version has {here}")
        return has

    return AfterValidator(check)


Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Plain: TypeAlias = Annotated[Object, AfterValidator(lambda content: _plain(content))]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a policy comes from, and for what it was made: the content of `policy.json`.

    Args:
        format: of the file.
        name: what the store calls it, unless it is told another name.
        kind: what network it is, one of `ackd.agents.store.KINDS`.
        choice: the action space that it acts in, one of `ackd.mdp.action_spaces.CHOICES`.
        schema: of the observations that it reads.
        globals: the names of what it observes of the training,
        features: and of each knowledge type.
        knowledge: names of the knowledge types of its training, in the order of the action's entries.
        k_max: entries of the action it is meant for; a set network takes any number.
        sizes: what rebuilds the network.
        algorithm: what trained it, as in `a2c`.
        instances: what it was trained on.
        metrics: how well it did.
        cost: what its learning took: episodes, student_steps, flops, seconds.
        license: under which it may be used, as in SPDX.
        versions: of the packages that saved it.
        sha256: of the weights' file.
    """

    format: Annotated[int, only(FORMAT)]
    name: Annotated[str, AfterValidator(check_name)]
    kind: str
    choice: str
    schema: Annotated[int, only(SCHEMA)]
    globals: Annotated[list[str], _these(GLOBALS)]
    features: Annotated[list[str], _these(FEATURES)]
    knowledge: Annotated[tuple[Name, ...], Field(max_length=MAX_K), AfterValidator(_different)]
    k_max: Annotated[int, Field(ge=1, le=MAX_K)]
    sizes: dict[str, int]
    algorithm: Name
    instances: tuple[Plain, ...]
    metrics: Plain
    cost: dict[Name, Annotated[Any, AfterValidator(_cost)]]
    license: Name
    versions: dict[Name, Name]
    sha256: str


def read_card(data: bytes, where: object) -> Card:
    """The card in a JSON's bytes; kind, choice and sizes are for the kind to judge.

    Raises:
        InputError: if it is no policy's, was made for other observations, or has something of a wrong type.
    """
    try:
        return parse(data, Card)
    except ValueError as error:
        raise InputError(
            f"{where} is no policy that this version of ackd can use ({error}): use the version that saved it, or save "
            "the policy again"
        ) from error
