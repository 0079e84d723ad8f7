"""`ackd mutual`: trains students that teach each other."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few, long, nothing_left
from ackd.experiments.student_options import MutualConfig


@dataclass(frozen=True, kw_only=True)
class Mutual(MutualConfig):
    """Train two or more students together; each learns from the labels and from the other students (deep mutual
    learning). The student with the best score on the reward split is saved.
    """

    def about(self) -> str:
        """The work in a few words."""
        return f"train {few(self.students)} side by side on {self.task} for {long(self)}"

    def run(self) -> None:
        """Trains, chooses on the reward split, evaluates every student on dev, and saves the chosen one."""
        from ackd.experiments.mutual import MutualTraining
        from ackd.experiments.results import ledger_lines
        from ackd.experiments.trained import ending

        training = MutualTraining(self)
        if training.finished:
            nothing_left(self.output)
            return
        trained = training.run()
        for k, row in enumerate(trained.result["students"], 1):
            print(
                f"{k}. {row['student']}: {trained.result['metric']} {row['reward_score']:.2f} on the reward split, "
                f"{row['dev_score']:.2f} on dev{', chosen' * (k == trained.result['chosen'])}"
            )
        place = training.folder.path / "student"
        print(f"{ledger_lines(trained.costs)}\n{ending(trained, place, self.text_columns)}\nstudent: {place}")
