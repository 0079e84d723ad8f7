"""Opens a run's curves, with the options that distinguish runs in trackers."""

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

IRRELEVANT = {*FREE, *GROWING, "checkpoint_seconds", "workers"}  # do not affect results


def curves_of(
    config: TrackingConfig, folder: RunFolder, files: Path | None = None, part: str = "", **own: str
) -> AbstractContextManager[Curves]:
    """The curves of a run, or of a part of it.

    Args:
        config: options with the trackers.
        folder: the folder of the started run.
        files: folder for TensorBoard's files; `tensorboard` in the run's folder if None.
        part: name of the part, if any.
        **own: options of the part.
    """
    name = folder.path.resolve().name + f"/{part}" * bool(part)
    options = {"command": folder.command} | plain(folder.settings | own)
    return opened(config.trackers(), files or folder.path / "tensorboard", name, options)


def plain(settings: Mapping[str, Any]) -> dict[str, Plain]:
    """Settings for trackers: lists become text; empty and irrelevant settings are left out."""
    return {
        name: value if isinstance(value, bool | int | float | str) else " ".join(map(str, _each(value)))
        for name, value in settings.items()
        if name not in IRRELEVANT and value not in (None, "", [], ())
    }


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each result over students of the same kind; results that a student lacks are left out."""
    columns = {name: [row[name] for row in rows] for name in RESULTS}
    return {name: fmean(those) for name, those in columns.items() if None not in those}


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)
