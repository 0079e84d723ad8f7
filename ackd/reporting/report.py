"""Writes a run's report: pictures, and one HTML page with all of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from ackd.errors import InputError
from ackd.reporting.comparison import compare, names
from ackd.reporting.evaluation_figures import of_evaluation
from ackd.reporting.html_report import Picture, Table, page
from ackd.reporting.method_figures import METHODS, of_method
from ackd.reporting.run_figures import of_training
from ackd.reporting.tables import HEADER, summaries
from ackd.runs.log import Run, open_run, read_decisions, read_table

REPORTED = ("train", "distill", "evaluate")
SUBJECTS = {"evaluate": "tasks", "pretrain": "corpus"}  # the setting for the title, if not the task


@dataclass(frozen=True)
class Reported:
    """The files of a written report.

    Args:
        page: path of the self-contained report.html.
        pictures: paths of the PNGs.
        note: a note about an unfinished or diverged run; otherwise empty.
    """

    page: Path
    pictures: Sequence[Path]
    note: str = ""


def report(run: str | Path, *, output: str | Path | None = None) -> Reported:
    """Draws the report of a run of train, distill, evaluate, tune, federate, mutual or pretrain.

    Args:
        run: the run's folder.
        output: folder for report.html and report/; the run's folder if None. An earlier report is replaced.

    Raises:
        InputError: if there is nothing to draw, a file of the run is damaged, or the folder cannot be written.

    Example:
        report("runs/train").page
    """
    there = open_run(Path(run))
    pictures, tables, notes = _drawn(there)
    text = page(_title(there), notes, _facts(there), pictures, [*tables, *_settings(there)])
    place = Path(output or run)
    written = _write(place, text, pictures)
    _hang(place / "tensorboard" / "report", pictures)
    return Reported(place / "report.html", written, _state(there))


def _drawn(run: Run) -> tuple[list[Picture], list[Table], list[str]]:
    """The pictures, tables and notes of a run."""
    known = (*REPORTED, *METHODS)
    if run.command not in known:
        raise InputError(
            f"{run.path} is a run of ackd {run.command}, of which there is nothing to draw: name a run of "
            f"{', '.join(known[:-1])} or {known[-1]}"
        )
    notes = [_state(run)] if _state(run) else []
    if run.command in METHODS:
        return *of_method(run), notes
    if run.command == "evaluate":
        cells = read_table(run.path / "table.csv")
        if not cells:
            raise InputError(f"{run.path} holds no student that was trained to its end: there is nothing to report")
        called = called_shortly(names(cells, "policy"))
        folders = {short: name for name, short in called.items()}
        cells = [replace(cell, policy=called[cell.policy]) for cell in cells]
        tables = [Table("Policies", summaries(cells), HEADER)]
        return of_evaluation(run, cells, folders), tables, [*notes, *compare(cells).notes]
    decisions = read_decisions(run.path / "decisions.csv")
    if not decisions:
        raise InputError(f"{run.path} holds no decisions: there is nothing to report")
    return of_training(run, decisions), [], notes


def called_shortly(policies: Sequence[str]) -> dict[str, str]:
    """Short names of policies for the page: a policy folder is named after its run, if that is unique.

    Example:
        >>> called_shortly(["all", "runs/agent/policy", "runs/a/", "old/a"])
        {'all': 'all', 'runs/agent/policy': 'agent', 'runs/a/': 'runs/a/', 'old/a': 'old/a'}
    """
    short = {name: name for name in policies}
    for name in policies:
        parts = [part for part in name.split("/") if part not in ("", ".", "..", "policy")]
        if "/" in name and parts and re.fullmatch(r"[\w./~ -]+", name):
            short[name] = parts[-1]
    return {name: one if list(short.values()).count(one) == 1 else name for name, one in short.items()}


def _write(folder: Path, text: str, pictures: Sequence[Picture]) -> list[Path]:
    """Writes the report and returns the paths of its pictures."""
    written = [folder / "report" / f"{picture.name}.png" for picture in pictures]
    try:
        (folder / "report").mkdir(parents=True, exist_ok=True)
        for path, picture in zip(written, pictures, strict=True):
            path.write_bytes(picture.content)
        # JSON may contain unpaired surrogates
        (folder / "report.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {folder} ({error.strerror}): choose another folder with --output"
        ) from None
    return written


def _hang(folder: Path, pictures: Sequence[Picture]) -> None:
    """Shows the pictures in TensorBoard, beside the curves."""
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for picture in pictures:
            pixels = imread(BytesIO(picture.content), format="png")
            writer.add_image(f"report/{picture.name}", np.asarray(255 * pixels[..., :3], np.uint8), dataformats="HWC")


def _state(run: Run) -> str:
    """A note about an unfinished or diverged run; otherwise empty."""
    if not run.finished:
        return "This run is unfinished: it was stopped, or is still going on. The report shows what there is."
    if run.result.get("error"):
        return "The training of this run diverged. The report shows what there is."
    return ""


def _title(run: Run) -> str:
    return f"ackd {run.command}: {_shown(run.settings.get(SUBJECTS.get(run.command, 'task')))}"


def _facts(run: Run) -> Table:
    rows = [(name.replace("_", " "), _shown(value)) for name, value in run.result.items() if _said(value)]
    scores = run.result.get("dev_scores")
    for split, by in scores.items() if isinstance(scores, Mapping) else ():
        rows += (
            [(f"{split}: {metric}", _shown(value)) for metric, value in by.items()] if isinstance(by, Mapping) else []
        )
    return Table("Result", rows)


def _settings(run: Run) -> list[Table]:
    return [
        Table(title, [(name, _shown(value)) for name, value in values.items()], folded=True)
        for title, values in (("Settings", run.settings), ("Versions", run.versions))
    ]


def _said(value: Any) -> bool:
    """Whether the value is present and fits on a line."""
    if value is None or value == "":
        return False
    return not isinstance(value, Mapping) and not (
        isinstance(value, list) and any(isinstance(v, Mapping) for v in value)
    )


def _shown(value: Any) -> str:
    """Formats a setting or a result as text."""
    if value is None or value == [] or value == "":
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)
