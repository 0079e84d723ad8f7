"""`ackd predict`: what a model says of a test split, as GLUE's leaderboard takes it, or of a user's own texts."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ackd.config import Precision, TextConfig
from ackd.experiments.progress import move, progress

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True, kw_only=True)
class Predict(TextConfig):
    """Write a model's predictions for the test split of a GLUE task, as its leaderboard takes them, or for texts of
    your own.
    """

    model: str
    """The model: folder, a run that holds one, or a hub id."""
    task: str
    """A GLUE task, or ax, which a model of mnli answers; or any name for data of your own, and for its file."""
    split: str | None = None
    """Which split, where --data is a data set of your own; test, or the only one, if not given."""
    output: str
    """Folder for the files, such as SST-2.tsv; it may hold those of other tasks."""
    overwrite: bool = False
    """Replace files of this task in --output."""
    device: str = "cpu"
    """Where the model is: cpu, cuda, cuda:1."""
    precision: Precision = "fp32"
    """What it computes in."""

    def run(self) -> None:
        """Writes the files, and says how often each class is in them."""
        from ackd.experiments.predictions import predict

        with ExitStack() as shown:
            bars: list[tqdm[Any]] = []  # one, once all has been checked

            def told(done: int, rows: int) -> None:
                if not bars:
                    bars.append(shown.enter_context(progress(rows, "predict", "row")))
                move(bars[0], done)

            found = predict(
                self.model,
                self.task,
                self.output,
                overwrite=self.overwrite,
                data=self.data,
                text_columns=self.text_columns,
                split=self.split,
                max_length=self.max_length,
                device=self.device,
                precision=self.precision,
                on_batch=told,
            )
        for path, words in found.items():
            counts = Counter(words)
            each = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) if len(counts) <= 10 else ""
            print(f"{len(words)} predictions{f' ({each})' if each else ''}: {path}")
