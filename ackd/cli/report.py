"""`ackd report`: pictures of a run, and one page that holds them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from ackd.reporting.html_report import Picture, Table
    from ackd.runs.log import Cell, Run

REPORTED = ("train", "distill", "evaluate")
SUBJECTS = {"evaluate": "tasks", "pretrain": "corpus"}  # the setting that says what a run is about, if not its task


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw what a run of train, distill, evaluate, tune, federate, mutual or pretrain did: pictures, and one HTML page
    that holds them all.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    output: str | None = None
    """Folder for report.html and report/; the run's own if not given. An earlier report is replaced."""

    def run(self) -> None:
        """Writes the pictures and the page."""
        from ackd.errors import InputError
        from ackd.reporting import run_figures
        from ackd.reporting.comparison import compare
        from ackd.reporting.html_report import page
        from ackd.reporting.method_figures import METHODS, of_method
        from ackd.runs.log import open_run, read_decisions, read_table

        run = open_run(Path(self.folder))
        known = (*REPORTED, *METHODS)
        if run.command not in known:
            raise InputError(
                f"{run.path} is a run of ackd {run.command}, of which there is nothing to draw: name a run of "
                f"{', '.join(known[:-1])} or {known[-1]}"
            )
        notes = [_state(run)]
        cells: list[Cell] = []
        tables: list[Table] = []
        if run.command in METHODS:
            pictures, tables = of_method(run)
        elif run.command == "evaluate":
            cells = read_table(run.path / "table.csv")
            if not cells:
                raise InputError(f"{run.path} holds no student that was trained to its end: there is nothing to report")
            notes += compare(cells).notes
            pictures = run_figures.of_evaluation(run, cells)
        else:
            decisions = read_decisions(run.path / "decisions.csv")
            if not decisions:
                raise InputError(f"{run.path} holds no decisions: there is nothing to report")
            pictures = run_figures.of_training(run, decisions)
        text = page(
            _title(run), [note for note in notes if note], _facts(run), pictures, [*tables, *_tables(run, cells)]
        )
        place = Path(self.output or self.folder)
        for path in _write(place, text, pictures):
            print(path)
        _hang(place / "tensorboard" / "report", pictures)
        if not run.finished:
            print(_state(run))


def _write(folder: Path, text: str, pictures: Sequence[Picture]) -> list[Path]:
    """Writes the report; the paths of what was written, the page last."""
    from ackd.errors import InputError

    page = folder / "report.html"
    written = [folder / "report" / f"{picture.name}.png" for picture in pictures]
    try:
        (folder / "report").mkdir(parents=True, exist_ok=True)
        for path, picture in zip(written, pictures, strict=True):
            path.write_bytes(picture.content)
        page.write_text(text, encoding="utf-8", errors="backslashreplace")  # JSON can hold halves of characters
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {folder} ({error.strerror}): choose another folder with --output"
        ) from None
    return [*written, page]


def _hang(folder: Path, pictures: Sequence[Picture]) -> None:
    """Shows the pictures in TensorBoard, beside the curves."""
    import shutil

    import numpy as np
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for picture in pictures:
            pixels = imread(BytesIO(picture.content), format="png")
            writer.add_image(f"report/{picture.name}", np.asarray(255 * pixels[..., :3], np.uint8), dataformats="HWC")


def _state(run: Run) -> str:
    """What a reader should know of how the run ended; nothing if it ended well."""
    if not run.finished:
        return "This run is unfinished: it was stopped, or is still going on. The report shows what there is."
    if run.result.get("error"):
        return "The training of this run diverged. The report shows what there is."
    return ""


def _title(run: Run) -> str:
    return f"ackd {run.command}: {_shown(run.settings.get(SUBJECTS.get(run.command, 'task')))}"


def _facts(run: Run) -> Table:
    from ackd.reporting.html_report import Table

    rows = [(name.replace("_", " "), _shown(value)) for name, value in run.result.items() if _said(value)]
    scores = run.result.get("dev_scores")
    for split, by in scores.items() if isinstance(scores, Mapping) else ():
        rows += (
            [(f"{split}: {metric}", _shown(value)) for metric, value in by.items()] if isinstance(by, Mapping) else []
        )
    return Table("Result", rows)


def _tables(run: Run, cells: Sequence[Cell]) -> list[Table]:
    from ackd.reporting.html_report import Table
    from ackd.reporting.tables import HEADER, summaries

    return [
        Table("Policies", summaries(cells), HEADER),
        Table("Settings", [(name, _shown(value)) for name, value in run.settings.items()], folded=True),
        Table("Versions", [(name, _shown(value)) for name, value in run.versions.items()], folded=True),
    ]


def _said(value: Any) -> bool:
    """Whether the value says something that fits a line."""
    if value is None or value == "":
        return False
    return not isinstance(value, Mapping) and not (
        isinstance(value, list) and any(isinstance(v, Mapping) for v in value)
    )


def _shown(value: Any) -> str:
    """A setting or a result as text."""
    if value is None or value == [] or value == "":
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)
