"""Documents from text files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ackd.errors import InputError

LINES = (".jsonl", ".json", ".ndjson")


def documents(path: str | Path) -> Iterator[str]:
    """The documents of a UTF-8 file: what blank lines separate, or the `text` of each JSON line.

    Empty ones are left out.

    Raises:
        InputError: if there is no such file, it cannot be read so, or has no text.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"there is no file {path}")
    try:
        empty = True
        for text in _json_lines(source) if source.suffix in LINES else _paragraphs(source):
            empty = False
            yield text
        if empty:
            raise InputError(f"{path} has no text")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason}): convert it first") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines).rstrip("\n")
                lines = []
    if lines:
        yield "".join(lines).rstrip("\n")


def _json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(f'{path} has no JSON object with a "text" in line {number}') from error
            if not isinstance(text, str) or not _encodable(text):
                raise InputError(f'{path} has a "text" in line {number} that is no string of characters')
            if text.strip():
                yield text


def _encodable(text: str) -> bool:
    """Whether it is free of halves of characters, which JSON can write and no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
