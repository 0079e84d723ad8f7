"""Reads documents from text files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ackd.errors import InputError
from ackd.files.json_rows import encodable, json_rows

LINES = (".jsonl", ".json", ".ndjson")
TEXT = "text"  # the column to read from a data set


class Document(NamedTuple):
    """A text and its domain."""

    text: str
    domain: str = ""  # chunks contain documents of one domain


def documents(path: str | Path) -> Iterator[Document]:
    """Yields the documents of a UTF-8 file: paragraphs between blank lines, or the `text` of each JSON object.

    Empty documents are left out. A JSON object may name its domain as `domain`, or as `meta.pile_set_name` as in the
    Pile.

    Raises:
        InputError: if the file does not exist, cannot be read, or has no text.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"there is no file {path}")
    try:
        empty = True
        for document in _texts(source) if source.suffix in LINES else map(Document, _paragraphs(source)):
            empty = False
            yield document
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


def _texts(path: Path) -> Iterator[Document]:
    for number, row in json_rows(path):
        if "text" not in row:
            raise InputError(f'{path} has no "text" in line {number}')
        text = row["text"]
        if not isinstance(text, str) or not encodable(text):
            raise InputError(f'{path} has a "text" in line {number} that is no string of characters')
        if text.strip():
            yield Document(text, _domain(row))


def _domain(row: dict[str, Any]) -> str:
    meta = row.get("meta")
    named = row.get("domain") or (meta.get("pile_set_name") if isinstance(meta, dict) else None)
    return named if isinstance(named, str) else ""


def given_documents(name: str, given: Any) -> list[Document]:
    """Converts a list of texts, or the column `text` of a data set, to documents; empty texts are left out.

    Args:
        name: name of the option, for messages.
        given: the texts.

    Raises:
        InputError: if they are something else, or all empty.
    """
    columns = getattr(given, "column_names", None)
    if isinstance(columns, list) and TEXT in columns:
        given = given[TEXT][:]
    if not isinstance(given, (list, tuple)):
        raise InputError(
            f"{name} is a {type(given).__name__}: give a text file, the folder of a corpus, a Dataset with a column "
            f"{TEXT!r}, or a list of texts"
        )
    for place, one in enumerate(given):
        if not isinstance(one, str) or not encodable(one):
            raise InputError(f"text {place + 1} of {name} is {one!r:.60}: give a list of texts")
    found = [Document(one) for one in given if one.strip()]
    if not found:
        raise InputError(f"{name} has no text")
    return found
