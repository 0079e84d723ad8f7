"""Reads rows from a user's JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ackd.errors import InputError


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each object of a UTF-8 file with its number; the file has one object per line, or a list of objects.

    Raises:
        InputError: if the file cannot be read, or contains anything else.
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
    """Whether the text has no unpaired surrogates; JSON can contain them, but UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
