"""Separates objects from plain options, and provides temporary run folders."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ackd import models
from ackd.building.sources import folder_of
from ackd.errors import InputError

DATA = ("data", "dev_data")
ALWAYS = ("tokenizer", "compute_metrics")
SHARED = ("teacher", "student", *ALWAYS, *DATA, "knowledge", "reward")  # options that may be shared by all settings


def by_name(options: Mapping[str, Any], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits options into plain ones for a config, and objects.

    Args:
        options: values by option name; a list may contain names and objects.
        names: names of the options that may be objects: models and data. A model is named by its folder or type. A
            `tokenizer` is always an object; so is `compute_metrics`, if it is in `names`.
    """
    plain, objects = dict(options), dict[str, Any]()
    for name in ("tokenizer", *(name for name in names if name in ALWAYS)):
        if (value := plain.pop(name, None)) is not None:
            objects[name] = value
    for name in [name for name in names if name not in ALWAYS]:
        value = options.get(name)
        each: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
        if all(one is None or isinstance(one, (str, Path)) for one in each):
            continue
        objects[name] = value
        called = [(None if models.is_config(one) else folder_of(one)) or type(one).__name__ for one in each]
        plain[name] = None if name in DATA else called[0] if each == [value] else called
    return plain, objects


def shared(options: dict[str, Any], settings: object) -> dict[str, Any]:
    """Removes the objects from the options and returns them, as defaults for every setting.

    Raises:
        InputError: if there are objects and the settings come from a file.
    """
    found = {name: options.pop(name) for name in SHARED if not _plain(options.get(name))}
    if found and isinstance(settings, (str, Path)):
        raise InputError(
            f"{next(iter(found))} is an object, and {settings} is read as it is: give the settings themselves"
        )
    return found


def _plain(value: Any) -> bool:
    """Whether a config can contain the value."""
    return (
        value is None
        or isinstance(value, (str, Path))
        or (isinstance(value, (list, tuple)) and all(map(_plain, value)))
    )


@contextmanager
def placed(output: str | Path | None) -> Iterator[str]:
    """Yields the name of a run's folder; a temporary one if `output` is None."""
    if output is not None:
        yield str(output)
        return
    with tempfile.TemporaryDirectory() as place:
        yield f"{place}/run"
