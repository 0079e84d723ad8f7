"""Paths in options that do not exist: found before anything is loaded, which takes seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ackd.errors import InputError

FIELDS = ("model", "teacher", "teachers", "student", "students", "tokenizer", "data", "dev_data", "corpus", "instances")
ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet")


def check_paths(command: object) -> None:
    """Refuses values that can only be paths and do not exist; other values may be names of the hub.

    Raises:
        InputError: for the first such value, with its option.
    """
    for option, value in _values(command):
        certain = value.startswith(("/", "./", "../", "~")) or value.endswith(ENDINGS)
        if certain and not Path(value).exists():
            home = ", and ~ is not expanded here" if value.startswith("~") else ""
            raise InputError(f"{option} is {value!r}: there is no folder or file of this name{home}")


def _values(command: object) -> Iterator[tuple[str, str]]:
    """Each value of the options that accept paths."""
    for field in dataclasses.fields(command) if dataclasses.is_dataclass(command) else ():
        given = getattr(command, field.name) if field.name in FIELDS else None
        values = [one for one in (given if isinstance(given, tuple) else (given,)) if isinstance(one, str)]
        for value in values:
            for one in value.split(",") if field.name == "teachers" else [value]:
                yield f"--{field.name.replace('_', '-')}", one
