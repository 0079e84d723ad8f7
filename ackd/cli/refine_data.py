"""`ackd refine-data`: keeps the chunks that a teacher predicts much better than a small reference model."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few
from ackd.experiments.language_options import RefineConfig


@dataclass(frozen=True, kw_only=True)
class RefineData(RefineConfig):
    """Keep the part of a corpus that a teacher knows best compared with a small reference model (MiniPLM)."""

    def about(self) -> str:
        """The work in a few words."""
        return f"keep {self.ratio:.0%} of a corpus by its scores in {few(self.teacher_scores)}"

    def run(self) -> None:
        """Writes the kept chunks to OUTPUT, in corpus order."""
        from ackd.experiments.refining import Refining

        refining = Refining(self)
        result = refining.run()
        if refining.alike:
            print("the teacher and the reference are one model: every score is 0, and the first chunks were kept")
        print(
            f"{result['kept']} of {result['candidates']} chunks kept, {result['tokens']} tokens: mean score "
            f"{result['mean_score_kept']:.4f} of those, {result['mean_score']:.4f} of all; "
            f"{result['below_zero']:.1%} of all are below 0"
        )
        print(f"corpus: {refining.folder.path}")
