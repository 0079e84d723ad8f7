"""`ackd score`: a language model's mean loss on each chunk of a corpus."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import nothing_left
from ackd.experiments.language_options import ScoreConfig


@dataclass(frozen=True, kw_only=True)
class Score(ScoreConfig):
    """Score each chunk of a corpus by a causal language model's mean loss, for `ackd refine-data`."""

    def about(self) -> str:
        """The work in a few words."""
        return f"score {self.corpus} with {self.model}"

    def run(self) -> None:
        """Writes the scores to OUTPUT/scores.bin, one block at a time."""
        from ackd.experiments.scoring import Scoring

        scoring = Scoring(self)
        if scoring.finished:
            nothing_left(scoring.config.output)
            return
        result = scoring.run()
        print(
            f"{result['chunks']} of {scoring.of} chunks, {result['tokens']} tokens: mean loss {result['mean_loss']:.4f}"
        )
        print(f"scores: {scoring.folder.path}")
