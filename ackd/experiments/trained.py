"""What a training leaves: a model, how good it is, and what it took."""

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
    """What a training came to.

    Args:
        result: the fields of a run's `result.json`; scores are in percent.
        costs: FLOPs, bytes and seconds, by what they were spent on.
        model: what was trained.
        write: writes it into a folder, with all that belongs to it.
        table: what was compared on the way, in Markdown, if anything.
        tokenizer: whose tokens the model reads.
        comparison: the model beside its teacher, if this process has just trained it.
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
        """The main metric on dev, in percent; of a language model the loss, in nats a token."""
        return float(self.result.get("dev_score", self.result.get("dev_loss")))

    def save(self, folder: str | Path) -> None:
        """Writes the model as any Hugging Face tool reads it, with its tokenizer."""
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
    """Writes the model under its name into a run's folder, and last `result.json`: where it is, a run is finished.

    Args:
        folder: of the run.
        trained: what is left.
        training: whose teacher the model is compared with.
        name: of the model's folder.
        score: on dev, in percent, where it is not that of `result`.
        timed: measure what an answer takes.

    Returns:
        The same, with the model beside its teacher.
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
    """What a finished run came to."""
    return read(folder.path / RESULT, Object, ANEW)


def left(folder: RunFolder, name: str = "student") -> Trained:
    """What a finished run has left."""
    result, costs = read_result(folder), read(folder.path / LEDGER, CostTracker, ANEW)
    place = folder.path / name
    model = models.load_model(place, language=result.get("task") == "language")
    table = folder.path / "table.md"
    text = table.read_text(encoding="utf-8").rstrip("\n") if table.is_file() else ""
    write = partial(shutil.copytree, place, dirs_exist_ok=True)
    return Trained(result, costs, model, write, text, models.load_tokenizer(place))


def ending(trained: Trained, place: Path, columns: Sequence[str] = ()) -> str:
    """What a command prints of a model: its teacher beside it, and how to use it.

    Args:
        trained: what it came to.
        place: where it lies.
        columns: of text, where the task is a user's own.
    """
    compared = [] if trained.comparison is None else [trained.comparison.table()]
    return "\n".join([*compared, use(str(trained.result["task"]), place, columns)])
