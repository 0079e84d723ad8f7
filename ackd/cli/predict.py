"""`ackd predict`: predictions for a GLUE test split, in the leaderboard's format, or for a user's own texts."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ackd.experiments.student_options import PredictConfig

if TYPE_CHECKING:
    from ackd.experiments.progress import Bar


@dataclass(frozen=True, kw_only=True)
class Predict(PredictConfig):
    """Write a model's predictions for the test split of a GLUE task, in the leaderboard's format, or for texts of your
    own.
    """

    def about(self) -> str:
        """The work in a few words."""
        return f"ask {self.model} about the test split of {self.task}"

    def run(self) -> None:
        """Writes the files and prints the count of each class."""
        from ackd.experiments.predictions import predict
        from ackd.experiments.progress import move, progress

        with ExitStack() as shown:
            bars: list[Bar] = []  # one bar, created after all checks have passed

            def told(done: int, rows: int) -> None:
                if not bars:
                    bars.append(shown.enter_context(progress(rows, "predict", "row")))
                move(bars[0], done)

            found = predict(**asdict(self), on_batch=told)
        for path, words in found.items():
            counts = Counter(words)
            each = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) if len(counts) <= 10 else ""
            print(f"{len(words)} predictions{f' ({each})' if each else ''}: {path}")
