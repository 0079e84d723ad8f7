"""Shows a run's progress and scores: a bar on a terminal, or lines in a log."""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from tqdm import tqdm

from ackd.envs.recorder import Note
from ackd.mdp.episode import Phase
from ackd.runs.stopping import defer_interrupts
from ackd.types import LABELS, NEG_LOSS, StepMetrics

EVERY = 60.0  # seconds between two lines of progress
FIRST = 10.0  # seconds until the first line, which estimates the time left
WIDE = 40  # most characters of a selection
SELECTED = "select/"  # prefix of the columns of weights
logger = logging.getLogger("ackd")


class Bar(tqdm):  # type: ignore[type-arg]  # not a generic class at run time
    """A progress bar over optimizer steps, with label loss, score on the reward split, and selection."""

    _score = math.nan  # latest score on the reward split
    in_lines = False  # True for lines in a log

    def phase(self, phase: Phase) -> None:
        """Advances by a phase of one student."""
        self.phases([phase], phase.steps)

    def phases(self, phases: Sequence[Phase], steps: int) -> None:
        """Advances by a phase of students that train together.

        Args:
            phases: phases of the students that have not diverged; their means are shown.
            steps: optimizer steps of all students.
        """
        if phases:
            self._show(phases)
        self.update(steps)

    def _show(self, phases: Sequence[Phase]) -> None:
        measured = [one.eval_result for one in phases if one.eval_result is not None]
        scores = [one.score / 100 if NEG_LOSS in one.scores else one.score for one in measured]  # nats, not percent
        names = dict.fromkeys((LABELS, *(name for one in phases for name in one.selection.weights)))
        weights = {name: fmean(_weight(one, name) for one in phases) for name in names}
        self.show(fmean(one.report.labels for one in phases), fmean(scores) if scores else math.nan, weights)

    def note(self, note: Note) -> None:
        """Advances by a worker's note; the note about the end of an episode has no steps."""
        if note.row:
            weights = {n.removeprefix(SELECTED): one for n, one in note.row.items() if n.startswith(SELECTED)}
            self.show(note.row["label_loss"], note.row.get("reward_score", math.nan), weights)
        self.update(note.steps)

    def show(self, loss: float, score: float, weights: Mapping[str, float]) -> None:
        """Shows the current numbers.

        Args:
            loss: loss on the labels.
            score: score on the reward split, from 0 to 1; NaN if it was not measured now.
            weights: weights of labels and knowledge types.
        """
        if math.isfinite(score):
            self._score = score
        parts = [f"label loss {loss:.3g}"]
        parts += [f"reward split {100 * self._score:.1f}"] * math.isfinite(self._score)
        parts += [shortened(weights)] * bool(weights)
        self.set_postfix_str(", ".join(parts), refresh=False)

    def update(self, n: float | None = 1) -> bool | None:
        """Advances by `n`; after the first line of a log, lines come at longer intervals."""
        shown = super().update(n)
        if shown and self.in_lines:
            self.mininterval = EVERY
        return shown


def say(text: str, *, quiet: bool = False) -> None:
    """Prints a text immediately, unless `quiet` is set."""
    if not quiet:
        print(text, flush=True)


def _weight(phase: Phase, name: str) -> float:
    return phase.selection.labels if name == LABELS else phase.selection.weights.get(name, 0.0)


def shortened(weights: Mapping[str, float], wide: int = WIDE) -> str:
    """A selection in the form of `--policy`: the selected terms, with weights that differ from 1.

    Example:
        >>> shortened({"labels": 1.0, "logits": 2.0, "hidden": 0.0})
        'logits:2'
    """
    alone = all(not one for name, one in weights.items() if name != LABELS)
    shown = [
        name if abs(one - 1) < 0.005 else f"{name}:{one:.2g}"
        for name, one in sorted(weights.items(), key=lambda pair: pair[0] == LABELS)
        if one and (name != LABELS or alone or abs(one - 1) >= 0.005)
    ]
    if weights.get(LABELS) == 0 and shown:
        shown.append(f"{LABELS}:0")
    text = "+".join(shown) or "nothing"
    return text if len(text) <= wide else text[: wide - 1] + "…"


def move(bar: Bar, done: int, report: StepMetrics[float] | None = None) -> None:
    """Moves a bar to `done` steps; `report` has the latest numbers."""
    if report is not None:
        bar.show(report.labels, math.nan, {})
    bar.update(done - bar.n)


@contextmanager
def progress(steps: int, what: str, unit: str = "step", *, quiet: bool = False) -> Iterator[Bar]:
    """A bar over optimizer steps with rate and time left; plain log lines if there is no terminal.

    Args:
        steps: total number of steps.
        what: description of the work.
        unit: unit of `steps`.
        quiet: show nothing.
    """
    look: dict[str, Any] = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        said = f"{{desc}}: {{n_fmt}} of {{total_fmt}} {unit}s, {{remaining}} left{{postfix}}"
        first = min(FIRST, EVERY)
        look = {
            "file": _Lines(),
            "bar_format": said,
            "delay": first,
            "mininterval": first,
            "miniters": 1,
            "leave": False,
        }
    with defer_interrupts():  # a half-made bar raises an error when it is deleted
        bar = Bar(total=steps, desc=what, unit=unit, disable=quiet, **look)
    bar.in_lines = "file" in look
    with bar:
        yield bar


class _Lines(io.StringIO):
    """A file that writes a bar's output to the log, line by line."""

    def write(self, text: str) -> int:
        """Logs the text without cursor movements."""
        if line := text.strip():
            logger.info("%s", line)
        return len(text)
