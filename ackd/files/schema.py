"""Validates JSON files against dataclasses; any other content raises an error of one sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ackd.errors import InputError, short

T = TypeVar("T")
LARGEST = 2**60  # counts stay below this
Count: TypeAlias = Annotated[int, Field(ge=0, lt=LARGEST)]
Ascii: TypeAlias = Annotated[str, Field(pattern=r"^[\x00-\x7f]*$")]
Object: TypeAlias = dict[str, Any]
Extra: TypeAlias = Literal["forbid", "ignore"] | None
MOST = 1 << 28  # most bytes of a file


def only(*known: T) -> AfterValidator:
    """A validator that accepts only these values; other versions of ackd may write others.

    Example:
        format: Annotated[int, only(1)]
    """

    def check(value: T) -> T:
        if value not in known:
            raise ValueError(f"this version of ackd reads {', '.join(map(short, known))}")
        return value

    return AfterValidator(check)


adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)  # the validator of a type, made once


def parse(data: bytes, kind: type[T], *, extra: Extra = "forbid") -> T:
    """Parses JSON into a dataclass or another type; the only conversion is from integers to floats.

    Args:
        data: the JSON; for duplicate keys the last one counts.
        kind: the type.
        extra: whether undeclared keys are forbidden or ignored; None: as declared by the types.

    Raises:
        ValueError: if the data does not match; names the key, the expected and the found value.

    References:
        https://docs.pydantic.dev/latest/concepts/strict_mode/
    """
    try:
        found: T = adapter(kind).validate_json(data, strict=True, extra=extra)
    except ValidationError as error:
        raise ValueError(sentence(error)) from None
    return found


def read(path: Path, kind: type[T], todo: str, *, most: int = MOST, extra: Extra = "forbid") -> T:
    """Reads a JSON file into a dataclass or another type, like `parse`.

    Args:
        path: the file.
        kind: the type.
        todo: advice for the error message about a damaged file.
        most: most bytes of the file.
        extra: as for `parse`.

    Raises:
        InputError: if the file cannot be read, is too large, or does not match.
    """
    try:
        return parse(read_bytes(path, most), kind, extra=extra)
    except InputError as error:
        raise InputError(f"{error}: {todo}") from error.__cause__
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): {todo}") from error


def read_bytes(path: Path, most: int) -> bytes:
    """Reads a file of at most `most` bytes, without allocating more memory.

    Raises:
        InputError: if the file is larger, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(min(path.stat().st_size, most) + 1)
    except (OSError, ValueError) as error:  # invalid characters in a name
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > most:
        raise InputError(f"{path} has more than {most} bytes, so it is something else")
    return data


def sentence(error: ValidationError) -> str:
    """Describes the first error, for example `seeds[0] is "x": it should be a valid integer`."""
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
    """The path to the wrong value: keys if they are printable, and list indices in brackets."""
    path = ""
    for key in error["loc"]:
        text = f"[{key}]" if isinstance(key, int) else key if key.isprintable() and len(key) < 60 else short(key)
        path += text if isinstance(key, int) or not path else f".{text}"
    return path
