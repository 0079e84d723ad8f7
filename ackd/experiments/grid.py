"""Trains the students of a grid cell by cell, and keeps them on disk until one is chosen."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from typing_extensions import TypedDict

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.files.reading import matches_schema, read_tensors
from ackd.files.schema import Object, read
from ackd.files.writing import write_tensors, write_whole
from ackd.models import Model
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.training.replay_log import ReplayLog
from ackd.types import EvalResult

Pair: TypeAlias = tuple[float, float]  # temperature, weight of the teacher
COLUMNS = ("temperature", "kd_weight", "reward_score", "reward_loss", "seconds", "error", "note")


class Row(TypedDict):
    """The content of a cell's file; scores are in percent, and None for a diverged training."""

    temperature: float
    kd_weight: float
    reward_score: float | None
    reward_loss: float | None
    reward_scores: list[float | None]
    seconds: float
    error: Literal["", "divergence"]
    ledger: Object


@dataclass(frozen=True)
class Grid:
    """Plain distillation at every temperature and weight, scored on the reward split.

    Finished cells are read from the folder, so a killed search continues where it stopped.

    Args:
        folder: the run's folder.
        make: makes the distillation of a cell.
        seeds: seeds of the students of every cell.
        replay_log: makes the replay log of one training in a folder.
    """

    folder: Path
    make: Callable[[Pair], Distillation]
    seeds: Sequence[int]
    replay_log: Callable[[Path], ReplayLog]

    def row(self, cell: Pair, on_student: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Returns the row of a cell; trains its students unless the cell is finished."""
        done = self.folder / "cells" / f"{_named(cell)}.json"
        if done.is_file():
            row = read_row(done, cell)
            for _ in self.seeds:
                on_student()
            return row
        distillation, total, eval_results = self.make(cell), CostTracker(), []
        for seed in self.seeds:
            replay_log = self.replay_log(self.folder / "checkpoint" / _named(cell) / str(seed))
            distillation.replay(replay_log)
            eval_results.append(_trained(distillation, seed))
            path = self._student(cell, seed)
            if eval_results[-1].finite and not path.is_file():
                write_tensors(path, distillation.student.model.state_dict())
            replay_log.finish()
            total.add(distillation.costs)
            on_student()
        row = {"temperature": cell[0], "kd_weight": cell[1], **_told(eval_results, total)}
        write_whole(done, json.dumps(row).encode())
        shutil.rmtree(self.folder / "checkpoint" / _named(cell))
        return row

    def taught(self, cell: Pair, seed: int) -> Distillation:
        """Returns a distillation with a trained student of a finished cell."""
        distillation = self.make(cell)
        distillation.reset(seed)
        read_student(self._student(cell, seed), distillation.student.model)
        return distillation

    def forget(self, cell: Pair) -> None:
        """Deletes the students of a cell that was not chosen."""
        shutil.rmtree(self._student(cell, 0).parent, ignore_errors=True)

    def _student(self, cell: Pair, seed: int) -> Path:
        return self.folder / "students" / _named(cell) / f"{seed}.pt"


def _named(cell: Pair) -> str:
    return f"{cell[0]}-{cell[1]}"


def pair(row: Mapping[str, Any]) -> Pair:
    """The cell of a row."""
    return row["temperature"], row["kd_weight"]


def rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """The key for choosing a row: the score, then the lower loss."""
    return row["reward_score"], -row["reward_loss"]


def tabulated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows and their notes as a Markdown table."""
    lines = ["| temperature | KD weight | reward split | loss there | seconds | |", "|---|---|---|---|---|---|"]
    for row in rows:
        score = "diverged" if row["error"] else f"{row['reward_score']:.2f}"
        loss = "" if row["error"] else f"{row['reward_loss']:.4f}"
        lines.append(
            f"| {row['temperature']:g} | {row['kd_weight']:g} | {score} | {loss} | {row['seconds']:.1f} "
            f"| {row['note']} |"
        )
    return "\n".join(lines)


def _told(eval_results: Sequence[EvalResult], total: CostTracker) -> dict[str, Any]:
    """The numbers of a row; scores are None if a training diverged."""
    finite = all(one.finite for one in eval_results)
    count = len(eval_results)
    return {
        "reward_score": round(sum(100 * one.score for one in eval_results) / count, 4) if finite else None,
        "reward_loss": sum(one.loss for one in eval_results) / count if finite else None,
        "reward_scores": [round(100 * one.score, 4) if one.finite else None for one in eval_results],
        "seconds": round(sum(total.seconds.values()), 3),
        "error": "" if finite else "divergence",
        "ledger": total.as_dict(),
    }


def _trained(distillation: Distillation, seed: int) -> EvalResult:
    """Trains a student and evaluates it on the reward split; NaN if it diverged."""
    (stage,) = distillation.stages
    try:
        distill(distillation, stage.selection, seed=seed)
        return distillation.evaluate(distillation.task.reward, "reward")
    except FloatingPointError:
        return EvalResult(math.nan, math.nan)


def read_row(path: Path, cell: Pair) -> dict[str, Any]:
    """Reads the row of a finished cell.

    Raises:
        InputError: if the row belongs to another cell or is damaged.
    """
    todo = "delete it, and its students are trained again with --resume"
    row = cast(dict[str, Any], read(path, Row, todo))
    scored = [row["reward_score"] is None, row["reward_loss"] is None] == [bool(row["error"])] * 2
    if not scored or pair(row) != cell or not matches_schema(row["ledger"], CostTracker().as_dict()):
        raise InputError(f"{path} is damaged (its figures are not those of {_named(cell)}): {todo}")
    return row


def read_student(path: Path, model: Model) -> None:
    """Loads the weights of a trained student into a model.

    Raises:
        InputError: if the weights belong to another model or are damaged.
    """
    try:
        model.load_state_dict(read_tensors(path))
    except (InputError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: start the run anew with --overwrite") from error
