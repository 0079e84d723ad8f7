"""Rows that a user keeps as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ackd.errors import InputError


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object of a UTF-8 file with its number: one on each line, or a list of them.

    Raises:
        InputError: if it cannot be read, or holds anything else.
    """
    number, listed = 0, False
    try:
        with path.open(encoding="utf-8-sig") as file:
            listed = next((line for line in file if line.strip()), "").lstrip().startswith("[")
            file.seek(0)
            for number, row in enumerate(json.load(file) if listed else file, 1):
                if listed or row.strip():
                    found = row if listed else json.loads(row)
                    if not isinstance(found, dict):
                        raise ValueError("it is something else")
                    yield number, found
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason}): convert it first") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if not listed:
            raise InputError(f"{path} has no JSON object in line {number}") from error
        which = f": look at number {number}" if number else ""
        raise InputError(f"{path} is no list of JSON objects{which}") from error


def encodable(text: str) -> bool:
    """Whether it is free of halves of characters, which JSON can write and no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
