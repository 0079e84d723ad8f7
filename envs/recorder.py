"""What is written down of episodes: curves for TensorBoard, and a table of every decision."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from ackd.costs import PARTS, CostTracker
from ackd.envs.trajectory import Step, Trajectory
from ackd.mdp.rewards import gap_of
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
    """What is to be written down of a decision, or of an episode that is over: plain numbers, which travel."""

    episode: int  # its number
    curves: Mapping[str, float]
    row: Mapping[str, Any] = field(default_factory=dict)  # of decisions.csv; empty of an episode
    steps: int = 0  # optimizer steps of a decision


class Notes(Protocol):
    """Where notes go."""

    @property
    def episodes(self) -> int:
        """The number of the next episode that begins, or of the first of a cohort."""
        ...

    def write(self, note: Note) -> None:
        """Takes one."""
        ...


def phases(number: int, trajectory: Trajectory) -> list[Note]:
    """The phases of the last decision of the episode of that number."""
    return [_phase(number, trajectory, step) for step in trajectory.latest]


def _phase(number: int, trajectory: Trajectory, step: Step) -> Note:
    episode, info, reward = step.episode, step.info, step.earned.total
    phase = episode.phases[-1]
    weights, losses = {LABELS: phase.selection.labels, **phase.selection.weights}, phase.report.losses
    measured = _measured(trajectory, phase.standing if phase.finite else None)
    curves = {
        "env/reward/total": reward,
        **{f"env/{name}": info[name] for name in ("reward/improvement", "reward/cost", "reward/bonus")},
        "env/loss/labels": info["loss/labels"],
        **{f"env/loss/{name}": info[f"loss/{name}"] for name in losses},
        **{f"env/select/{name}": weight for name, weight in weights.items()},
        **{f"env/cosine/{name}": value for name, value in phase.report.cosines.items()},
        **{f"env/gradient/{name}": value for name, value in phase.report.norms.items()},
        **{f"env/reward_split/{name}": value for name, value in measured.items()},
        "env/grad_norm": info["grad_norm"],
        "env/learning_rate": phase.learning_rate,
        "env/flops_share": info["flops_share"],
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
        **{f"select/{name}": weight for name, weight in weights.items()},
        **{f"loss/{name}": info[f"loss/{name}"] for name in losses},
    }
    return Note(number, curves, row, phase.steps)


def ending(
    number: int, trajectory: Trajectory, returned: float, standings: Mapping[str, EvalResult], costs: CostTracker
) -> Note:
    """An episode that is over: its return, the student on dev, and what it took."""
    episode = trajectory.episode
    assert episode is not None
    phases, seconds = episode.phases, sum(costs.seconds.values())
    alive = all(phase.finite for phase in phases)
    standing = episode.standing if alive else None
    names = dict.fromkeys(name for phase in phases for name in phase.selection.weights)
    curves = {
        "episode/return": returned,
        "episode/diverged": float(not alive),
        **{f"episode/reward_split/{name}": value for name, value in _measured(trajectory, standing).items()},
        "episode/flops_share": sum(p.flops for p in phases) / sum(p.flops_all for p in phases),
        **{f"episode/select/{name}": sum(name in p.selection.chosen for p in phases) / len(phases) for name in names},
        **{
            f"episode/dev/{split}/{metric}": value
            for split, there in standings.items()
            for metric, value in there.scores.items()
        },
        **{f"cost/flops/{part}": costs.flops[part] for part in PARTS},
        **{f"cost/bytes/{part}": costs.bytes[part] for part in PARTS},
        **{f"cost/seconds/{part}": costs.seconds[part] for part in PARTS},
        **{f"cost/time_share/{part}": costs.seconds[part] / seconds for part in PARTS},
    }
    return Note(number, curves)


def _measured(trajectory: Trajectory, standing: EvalResult | None) -> dict[str, float]:
    """Loss, score, and what the reward is made of, if that is another measure; nothing where nobody measured."""
    if standing is None:
        return {}
    gap, episode = gap_of(trajectory.reward), trajectory.episode
    paid: dict[str, float] = {gap.on: gap.measured(episode, standing)} if gap and episode else {}
    return {"loss": standing.loss, "score": standing.score, **paid}


class Recorder:
    """Writes notes to `tensorboard/env` and `decisions.csv`; `docs/metrics.md` explains every tag.

    Args:
        folder: a run's folder; what an earlier recorder wrote there is replaced.
        knowledge: the names of the knowledge types.
    """

    def __init__(self, folder: Path, knowledge: Sequence[str]) -> None:
        self.knowledge = knowledge
        self.decisions = 0
        self.episodes = 0  # finished ones
        curves = folder / "tensorboard" / "env"
        shutil.rmtree(curves, ignore_errors=True)
        self._writer = SummaryWriter(str(curves), flush_secs=5)
        self._file = (folder / "decisions.csv").open("w", newline="", encoding="utf-8")
        terms = (LABELS, *knowledge)
        columns = [*COLUMNS, *(f"select/{name}" for name in terms), *(f"loss/{name}" for name in knowledge)]
        self._rows = csv.DictWriter(self._file, columns)
        self._rows.writeheader()

    def write(self, note: Note) -> None:
        """Writes down a decision or an episode; types that it says nothing of were not selected."""
        if note.row:
            self.decisions += 1
            self._scalars(self.decisions, {**self._unselected("env/select/"), **note.curves})
            self._rows.writerow({**self._unselected("select/"), **note.row})
            self._file.flush()
        else:
            self._scalars(note.episode, {**self._unselected("episode/select/"), **note.curves})
            self._writer.flush()
            self.episodes = max(self.episodes, note.episode + 1)

    def close(self) -> None:
        """Finishes the files."""
        self._writer.close()
        self._file.close()

    def _unselected(self, prefix: str) -> dict[str, Any]:
        return {f"{prefix}{name}": 0.0 for name in self.knowledge}

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)


class BufferedRecorder:
    """Notes on their way from a worker to the recorder.

    The workers' episodes are numbered in turn: the e-th of worker i of N is e N + i, and where each has S students side
    by side, the s-th of them is (e N + i) S + s.

    Args:
        worker: which this is.
        workers: how many there are.
        students: side by side in each.
    """

    def __init__(self, worker: int = 0, workers: int = 1, students: int = 1) -> None:
        self._worker, self._workers, self._students = worker, workers, students
        self._finished = 0
        self._notes: list[Note] = []

    @property
    def episodes(self) -> int:
        """The number of the next episode that begins here, or of the first of a cohort."""
        return (self._finished // self._students * self._workers + self._worker) * self._students

    def write(self, note: Note) -> None:
        """Keeps one."""
        self._notes.append(note)
        self._finished += not note.row

    def take(self) -> list[Note]:
        """What was written since this was asked last."""
        notes, self._notes = self._notes, []
        return notes
