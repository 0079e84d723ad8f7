"""The content of a policy's JSON file. The file is untrusted: all fields are checked, none is executed."""

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
    """Rejects an invalid name of a policy; the name is also that of its folder.

    Raises:
        InputError: if the name is invalid.
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
    """Rejects values that a page cannot show: NaN, infinity, numbers too large for a float, deep nesting."""
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
    """Rejects a policy that reads other observations; the error names them."""

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
    """The origin and the purpose of a policy: the content of `policy.json`.

    Args:
        format: version of the file format.
        name: name in the store, unless another one is given there.
        kind: kind of the network, one of `ackd.agents.store.KINDS`.
        choice: action space, one of `ackd.mdp.action_spaces.CHOICES`.
        schema: version of the observations that it reads.
        globals: names of the observed numbers of the training.
        features: names of the observed numbers of each knowledge type.
        knowledge: names of the knowledge types of its training, in the order of the action's entries.
        k_max: entries of the action it is meant for; a set network takes any number.
        sizes: arguments that rebuild the network.
        algorithm: algorithm of its training, such as `a2c`.
        instances: instances of its training.
        metrics: measured results.
        cost: costs of its training: episodes, student_steps, flops, seconds.
        license: license for its use, as in SPDX.
        versions: versions of the packages that saved it.
        sha256: hash of the weights' file.
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
    """Parses a card from the bytes of a JSON file; kind, choice and sizes are checked later.

    Raises:
        InputError: if it is not a policy's card, is for other observations, or a field has a wrong type.
    """
    try:
        return parse(data, Card)
    except ValueError as error:
        raise InputError(
            f"{where} is no policy that this version of ackd can use ({error}): use the version that saved it, or save "
            "the policy again"
        ) from error
