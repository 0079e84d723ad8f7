"""What a training leaves: a model, how good it is, and what it took."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ackd import models
from ackd.costs import CostTracker
from ackd.files.schema import Object, read
from ackd.models import Model
from ackd.runs.folder import ANEW, RESULT, RunFolder

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
    """

    result: Mapping[str, Any]
    costs: CostTracker = field(repr=False)
    model: Model = field(repr=False)
    write: Callable[[Path], object] = field(repr=False)
    table: str = field(default="", repr=False)

    @property
    def score(self) -> float:
        """The main metric on dev, in percent; of a language model the loss, in nats a token."""
        return float(self.result.get("dev_score", self.result.get("dev_loss")))

    def save(self, folder: str | Path) -> None:
        """Writes the model as any Hugging Face tool reads it, with its tokenizer."""
        self.write(Path(folder))


def leave(folder: RunFolder, trained: Trained, name: str = "student") -> None:
    """Writes the model under its name into a run's folder, and last `result.json`: where it is, a run is finished."""
    trained.save(folder.path / name)
    folder.write_json(LEDGER, trained.costs.as_dict())
    folder.write_json(RESULT, dict(trained.result))


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
    return Trained(result, costs, model, partial(shutil.copytree, place, dirs_exist_ok=True), text)
