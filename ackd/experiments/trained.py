"""The outcome of a training: the model, its scores and its costs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ackd import models
from ackd.costs import CostTracker
from ackd.experiments.comparison import FILE, Comparison, compare, use
from ackd.files.schema import Object, read
from ackd.models import Model, Tokenizer
from ackd.runs.folder import ANEW, RESULT, RunFolder
from ackd.training.distillation import Distillation

LEDGER = "ledger.json"


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Args:
        result: the fields of a run's `result.json`; scores are in percent.
        costs: FLOPs, bytes and seconds, by part of the training.
        model: the trained model.
        write: writes the model and its files into a folder.
        table: a Markdown table of the compared models or starts; empty if none.
        tokenizer: the model's tokenizer.
        comparison: the model beside its teacher, if this process has trained it.
    """

    result: Mapping[str, Any]
    costs: CostTracker = field(repr=False)
    model: Model = field(repr=False)
    write: Callable[[Path], object] = field(repr=False)
    table: str = field(default="", repr=False)
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    comparison: Comparison | None = field(default=None, repr=False)

    @property
    def score(self) -> float:
        """The main metric on dev, in percent; for a language model the loss in nats per token."""
        return float(self.result.get("dev_score", self.result.get("dev_loss")))

    def save(self, folder: str | Path) -> None:
        """Saves the model in the Hugging Face format, with its tokenizer."""
        self.write(Path(folder))


def leave(
    folder: RunFolder,
    trained: Trained,
    training: Distillation,
    name: str = "student",
    *,
    score: float | None = None,
    timed: bool = True,
) -> Trained:
    """Saves the model in a run's folder, and last `result.json`, which marks a finished run.

    Args:
        folder: the run's folder.
        trained: the outcome of the training.
        training: the training; its teacher is compared with the model.
        name: name of the model's folder.
        score: dev score in percent, if it is not in `result`.
        timed: measure latencies.

    Returns:
        `trained` with the comparison of model and teacher.
    """
    place = folder.path / name
    trained.save(place)
    folder.write_json(LEDGER, trained.costs.as_dict())
    told = dict(trained.result) if score is None else {**trained.result, "dev_score": score}
    compared = compare(training, told, trained.costs, model=trained.model, folder=place, timed=timed)
    folder.write_json(FILE, compared.as_dict())
    folder.write_json(RESULT, dict(trained.result))
    return replace(trained, comparison=compared)


def read_result(folder: RunFolder) -> Object:
    """Reads the result of a finished run."""
    return read(folder.path / RESULT, Object, ANEW)


def left(folder: RunFolder, name: str = "student") -> Trained:
    """Loads the outcome of a finished run."""
    result, costs = read_result(folder), read(folder.path / LEDGER, CostTracker, ANEW)
    place = folder.path / name
    model = models.load_model(place, language=result.get("task") == "language")
    table = folder.path / "table.md"
    text = table.read_text(encoding="utf-8").rstrip("\n") if table.is_file() else ""
    write = partial(shutil.copytree, place, dirs_exist_ok=True)
    return Trained(result, costs, model, write, text, models.load_tokenizer(place))


def ending(trained: Trained, place: Path, columns: Sequence[str] = ()) -> str:
    """The text about a model that a command prints: comparison with the teacher, and usage.

    Args:
        trained: the outcome of the training.
        place: the model's folder.
        columns: text columns of a user's own data.
    """
    compared = [] if trained.comparison is None else [trained.comparison.table()]
    return "\n".join([*compared, use(str(trained.result["task"]), place, columns)])
