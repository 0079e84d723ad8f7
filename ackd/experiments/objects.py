"""Objects among options that commands have by their names, and a folder for those who keep none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ackd import models
from ackd.building.sources import folder_of

DATA = ("data", "dev_data")


def by_name(options: Mapping[str, Any], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as a config has them, and apart from these what was handed over as an object.

    Args:
        options: by their names; a list may have names and objects.
        names: of those that may be objects: models, which are called as their folders or types, and data. A
            `tokenizer` is always one.
    """
    plain, objects = dict(options), dict[str, Any]()
    if (tokenizer := plain.pop("tokenizer", None)) is not None:
        objects["tokenizer"] = tokenizer
    for name in names:
        value = options.get(name)
        each: list[Any] = [*value] if isinstance(value, (list, tuple)) else [value]
        if all(one is None or isinstance(one, (str, Path)) for one in each):
            continue
        objects[name] = value
        called = [(None if models.is_config(one) else folder_of(one)) or type(one).__name__ for one in each]
        plain[name] = None if name in DATA else called[0] if each == [value] else called
    return plain, objects


@contextmanager
def placed(output: str | Path | None) -> Iterator[str]:
    """A run's folder by its name; one that is gone afterwards if None."""
    if output is not None:
        yield str(output)
        return
    with tempfile.TemporaryDirectory() as place:
        yield f"{place}/run"
