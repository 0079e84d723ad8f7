"""A run's curves, with what trackers tell runs apart by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import Any

from ackd.experiments.options import TrackingConfig
from ackd.experiments.workers import GROWING
from ackd.runs.curves import RESULTS, Curves, Plain
from ackd.runs.folder import FREE, RunFolder
from ackd.runs.trackers import opened

IRRELEVANT = {*FREE, *GROWING, "checkpoint_seconds", "workers"}  # to what comes out


def curves_of(
    config: TrackingConfig, folder: RunFolder, files: Path | None = None, part: str = "", **own: str
) -> AbstractContextManager[Curves]:
    """The curves of a run, or of a part of it.

    Args:
        config: says who draws them.
        folder: the run's, which has begun.
        files: folder for TensorBoard's; `tensorboard` in the run's if None.
        part: what it is called, if it is one.
        **own: options of the part.
    """
    name = folder.path.resolve().name + f"/{part}" * bool(part)
    options = {"command": folder.command} | plain(folder.settings | own)
    return opened(config.trackers(), files or folder.path / "tensorboard", name, options)


def plain(settings: Mapping[str, Any]) -> dict[str, Plain]:
    """Settings as trackers take them: lists in words, and without what was not given or is irrelevant."""
    return {
        name: value if isinstance(value, bool | int | float | str) else " ".join(map(str, _each(value)))
        for name, value in settings.items()
        if name not in IRRELEVANT and value not in (None, "", [], ())
    }


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of what students of the same kind came to, where all have it."""
    columns = {name: [row[name] for row in rows] for name in RESULTS}
    return {name: fmean(those) for name, those in columns.items() if None not in those}


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)
