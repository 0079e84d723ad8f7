"""Files as dataclasses: one beside what writes a file declares what it may hold; all else is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ackd.errors import InputError, short

T = TypeVar("T")
LARGEST = 2**60  # of counts
Count: TypeAlias = Annotated[int, Field(ge=0, lt=LARGEST)]
Ascii: TypeAlias = Annotated[str, Field(pattern=r"^[\x00-\x7f]*$")]
Object: TypeAlias = dict[str, Any]
Extra: TypeAlias = Literal["forbid", "ignore"] | None
MOST = 1 << 28  # bytes of a file


def only(*known: T) -> AfterValidator:
    """Refuses other values, as another version of ackd may write them.

    Example:
        format: Annotated[int, only(1)]
    """

    def check(value: T) -> T:
        if value not in known:
            raise ValueError(f"this version of ackd reads {', '.join(map(short, known))}")
        return value

    return AfterValidator(check)


adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)  # what validates a type; it is made once


def parse(data: bytes, kind: type[T], *, extra: Extra = "forbid") -> T:
    """A dataclass, or another type, from JSON: nothing is converted but whole numbers where decimals are wanted.

    Args:
        data: the JSON; of two equal keys the last counts.
        kind: the type.
        extra: whether keys that are not declared are refused; None: as the types say.

    Raises:
        ValueError: if it is something else; says which key, what was expected and what was found.

    References:
        https://docs.pydantic.dev/latest/concepts/strict_mode/
    """
    try:
        found: T = adapter(kind).validate_json(data, strict=True, extra=extra)
    except ValidationError as error:
        raise ValueError(sentence(error)) from None
    return found


def read(path: Path, kind: type[T], todo: str, *, most: int = MOST, extra: Extra = "forbid") -> T:
    """The same from a file.

    Args:
        path: the file.
        kind: the type.
        todo: what a person can do where it is damaged.
        most: bytes that it may have.
        extra: what is done with keys that are not declared.

    Raises:
        InputError: if it cannot be read, is too large, or holds something else.
    """
    try:
        return parse(read_bytes(path, most), kind, extra=extra)
    except InputError as error:
        raise InputError(f"{error}: {todo}") from error.__cause__
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): {todo}") from error


def read_bytes(path: Path, most: int) -> bytes:
    """A file's contents, of which memory is taken for `most` bytes at the most.

    Raises:
        InputError: if it is larger, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(min(path.stat().st_size, most) + 1)
    except (OSError, ValueError) as error:  # a name may hold what none does
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > most:
        raise InputError(f"{path} has more than {most} bytes, so it is something else")
    return data


def sentence(error: ValidationError) -> str:
    """What is wrong first, as `seeds[0] is "x": it should be a valid integer`."""
    first = error.errors(include_url=False)[0]
    place, kind, about = _place(first), first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return f"it is not JSON: {about['error']}"
    if kind == "missing":
        return f"it lacks {place}"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"it has the unknown field {place}"
    expected = str(about["error"]) if kind == "value_error" else first["msg"].replace("Input ", "it ")
    return f"{place or 'it'} is {short(first['input'])}: {expected[:1].lower()}{expected[1:]}"


def _place(error: ErrorDetails) -> str:
    """Keys as they are if a terminal can show them, places in lists in brackets."""
    path = ""
    for key in error["loc"]:
        text = f"[{key}]" if isinstance(key, int) else key if key.isprintable() and len(key) < 60 else short(key)
        path += text if isinstance(key, int) or not path else f".{text}"
    return path
