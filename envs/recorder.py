"""Records episodes: curves, and a table of all decisions."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from ackd.costs import PARTS, CostTracker
from ackd.envs.trajectory import Step, Trajectory
from ackd.mdp.rewards import gap_of
from ackd.runs.curves import Curves
from ackd.runs.tensorboard import TensorBoard
from ackd.types import LABELS, EvalResult

COLUMNS = (
    "episode",
    "seed",
    "decision",
    "steps_done",
    "selection",
    "reward",
    "improvement",
    "cost",
    "bonus",
    "reward_loss",
    "reward_score",
    "label_loss",
    "grad_norm",
    "learning_rate",
    "flops",
    "flops_share",
    "error",
)


@dataclass(frozen=True)
class Note:
    """The record of a phase or of a finished episode: plain numbers that workers can send."""

    episode: int  # number of the episode
    curves: Mapping[str, float]
    row: Mapping[str, Any] = field(default_factory=dict)  # of decisions.csv; empty for an episode
    steps: int = 0  # optimizer steps of the phase


class Notes(Protocol):
    """A destination for notes."""

    @property
    def episodes(self) -> int:
        """The number of the next episode, or of the first one of the next cohort."""
        ...

    def write(self, note: Note) -> None:
        """Writes a note."""
        ...


def phases(number: int, trajectory: Trajectory) -> list[Note]:
    """Notes on the phases of the last decision; `number` is the episode's number."""
    return [_phase(number, trajectory, step) for step in trajectory.latest]


def _phase(number: int, trajectory: Trajectory, step: Step) -> Note:
    episode, info, reward = step.episode, step.info, step.earned.total
    phase = episode.phases[-1]
    weights, losses = {LABELS: phase.selection.labels, **phase.selection.weights}, phase.report.losses
    measured = _measured(trajectory, phase.eval_result if phase.finite else None)
    curves = {
        "phase/reward": reward,
        "phase/loss/labels": info["loss/labels"],
        **{f"phase/loss/{name}": info[f"loss/{name}"] for name in losses},
        **{f"phase/weight/{name}": weight for name, weight in weights.items()},
        **{f"phase/reward_split/{name}": value for name, value in measured.items()},
        **{name: info[name] for name in ("reward/improvement", "reward/cost", "reward/bonus")},
        **{f"student/cosine/{name}": value for name, value in phase.report.cosines.items()},
        **{f"student/gradient/{name}": value for name, value in phase.report.norms.items()},
        "student/grad_norm": info["grad_norm"],
        "student/learning_rate": phase.learning_rate,
        "student/flops_share": info["flops_share"],
    }
    row = {
        "episode": number,
        "seed": trajectory.seed,
        "decision": trajectory.decisions - 1,
        "steps_done": episode.steps_done,
        "selection": info["action/effective"],
        "reward": reward,
        "improvement": info["reward/improvement"],
        "cost": info["reward/cost"],
        "bonus": info["reward/bonus"],
        **{f"reward_{name}": measured[name] for name in ("loss", "score") if name in measured},
        "label_loss": info["loss/labels"],
        "grad_norm": info["grad_norm"],
        "learning_rate": phase.learning_rate,
        "flops": phase.flops,
        "flops_share": info["flops_share"],
        "error": info["error/type"],
        **{f"select/{name}": weights.get(name, 0.0) for name in trajectory.signals.families},
        **{f"loss/{name}": info[f"loss/{name}"] for name in losses},
    }
    return Note(number, curves, row, phase.steps)


def ending(
    number: int, trajectory: Trajectory, returned: float, eval_results: Mapping[str, EvalResult], costs: CostTracker
) -> Note:
    """A note on a finished episode: its return, the student's dev scores and the costs."""
    episode = trajectory.episode
    assert episode is not None
    phases, seconds = episode.phases, sum(costs.seconds.values())
    alive = all(phase.finite for phase in phases)
    eval_result = episode.eval_result if alive else None
    names = dict.fromkeys(name for phase in phases for name in phase.selection.weights)
    earned = {"episode/return": returned} if episode.start is not None or not alive else {}
    curves = {
        **earned,
        "episode/diverged": float(not alive),
        **{f"episode/reward_split/{name}": value for name, value in _measured(trajectory, eval_result).items()},
        **{f"episode/selected/{name}": sum(name in p.selection.chosen for p in phases) / len(phases) for name in names},
        **{
            f"episode/dev/{split}/{metric}": value
            for split, result in eval_results.items()
            for metric, value in result.scores.items()
        },
        "spent/flops_share": sum(p.flops for p in phases) / sum(p.flops_all for p in phases),
        **{f"spent/flops/{part}": costs.flops[part] for part in PARTS},
        **{f"spent/bytes/{part}": costs.bytes[part] for part in PARTS},
        **{f"spent/seconds/{part}": costs.seconds[part] for part in PARTS},
        **{f"spent/time_share/{part}": costs.seconds[part] / seconds for part in PARTS},
    }
    return Note(number, curves)


def _measured(trajectory: Trajectory, eval_result: EvalResult | None) -> dict[str, float]:
    """Loss, score and the reward's own measure, if it has another one; empty without a measurement."""
    if eval_result is None:
        return {}
    gap, episode = gap_of(trajectory.reward), trajectory.episode
    paid: dict[str, float] = {gap.on: gap.measured(episode, eval_result)} if gap and episode else {}
    return {"loss": eval_result.loss, "score": eval_result.score, **paid}


class Drawing:
    """Draws notes as curves: a point for each phase, numbered over all episodes, and one for each episode.

    Args:
        curves: where points are drawn.
        knowledge: names of the knowledge types; a type without an entry in a note was not selected.
    """

    def __init__(self, curves: Curves, knowledge: Sequence[str]) -> None:
        self.curves, self.knowledge = curves, knowledge
        self.phases = 0

    def draw(self, note: Note) -> None:
        """Draws a note."""
        if note.row:
            self.phases += 1
            self.curves.write("phase", self.phases, {**_unselected("phase/weight/", self.knowledge), **note.curves})
        else:
            none = _unselected("episode/selected/", self.knowledge)
            self.curves.write("episode", note.episode, {**none, **note.curves})


class Recorder:
    """Writes notes to `decisions.csv` and draws them as curves; `docs/metrics.md` explains every tag.

    Args:
        folder: a run's folder; files of an earlier recorder are replaced.
        knowledge: the names of the knowledge types.
        curves: where points are drawn; TensorBoard files in the folder if None.
    """

    def __init__(self, folder: Path, knowledge: Sequence[str], curves: Curves | None = None) -> None:
        self.knowledge = knowledge
        self.episodes = 0  # finished ones
        self._own = None if curves is not None else Curves([TensorBoard(folder / "tensorboard")])
        self._drawing = Drawing(curves or cast(Curves, self._own), knowledge)
        self._file = (folder / "decisions.csv").open("w", newline="", encoding="utf-8")
        terms = (LABELS, *knowledge)
        columns = [*COLUMNS, *(f"select/{name}" for name in terms), *(f"loss/{name}" for name in knowledge)]
        self._rows = csv.DictWriter(self._file, columns)
        self._rows.writeheader()

    def write(self, note: Note) -> None:
        """Writes the note of a phase or of an episode; its setting may have only some of the types."""
        self._drawing.draw(note)
        if note.row:
            self._rows.writerow({**_unselected("select/", self.knowledge), **note.row})
            self._file.flush()
        else:
            self.episodes = max(self.episodes, note.episode + 1)

    def close(self) -> None:
        """Closes the files."""
        if self._own is not None:
            self._own.close()
        self._file.close()


def _unselected(prefix: str, knowledge: Sequence[str]) -> dict[str, float]:
    return {f"{prefix}{name}": 0.0 for name in knowledge}


class BufferedRecorder:
    """Buffers a worker's notes until they are sent to the recorder.

    The workers' episodes are numbered in turn: the e-th episode of worker i of N has the number e N + i. If each worker
    has S students side by side, the s-th of them has the number (e N + i) S + s.

    Args:
        worker: index of this worker.
        workers: number of workers.
        students: number of students side by side in each worker.
        drawing: if given, draws each note at once.
    """

    def __init__(self, worker: int = 0, workers: int = 1, students: int = 1, *, drawing: Drawing | None = None) -> None:
        self._worker, self._workers, self._students = worker, workers, students
        self._drawing = drawing
        self._finished = 0
        self._notes: list[Note] = []

    @property
    def episodes(self) -> int:
        """The number of this worker's next episode, or of the first one of its next cohort."""
        return (self._finished // self._students * self._workers + self._worker) * self._students

    def write(self, note: Note) -> None:
        """Buffers a note."""
        self._notes.append(note)
        if self._drawing is not None:
            self._drawing.draw(note)
        self._finished += not note.row

    def take(self) -> list[Note]:
        """Removes and returns the buffered notes."""
        notes, self._notes = self._notes, []
        return notes
