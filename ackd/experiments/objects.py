"""Objects among options that commands have by their names, and a folder for those who keep none."""

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
SHARED = ("teacher", "student", *ALWAYS, *DATA, "knowledge", "reward")  # of all settings alike


def by_name(options: Mapping[str, Any], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as a config has them, and apart from these what was handed over as an object.

    Args:
        options: by their names; a list may have names and objects.
        names: of those that may be objects: models, which are called as their folders or types, and data. A
            `tokenizer` is always one, and so is `compute_metrics`, where it is among them.
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
    """What of some options is handed over as an object, for every setting that has none of its own; it is taken out.

    Raises:
        InputError: if there is any, and the settings are read from a file.
    """
    found = {name: options.pop(name) for name in SHARED if not _plain(options.get(name))}
    if found and isinstance(settings, (str, Path)):
        raise InputError(
            f"{next(iter(found))} is an object, and {settings} is read as it is: give the settings themselves"
        )
    return found


def _plain(value: Any) -> bool:
    """Whether a value is one that a config has."""
    return (
        value is None
        or isinstance(value, (str, Path))
        or (isinstance(value, (list, tuple)) and all(map(_plain, value)))
    )


@contextmanager
def placed(output: str | Path | None) -> Iterator[str]:
    """A run's folder by its name; one that is gone afterwards if None."""
    if output is not None:
        yield str(output)
        return
    with tempfile.TemporaryDirectory() as place:
        yield f"{place}/run"
