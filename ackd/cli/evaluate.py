"""`ackd evaluate`: compares policies on the same students, data and dropout."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few, long
from ackd.experiments.options import EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluationConfig):
    """Distil a student for each task, policy and seed, and tabulate the results.

    --resume extends a table: add policies, tasks or seeds, and only the missing students are trained. With several
    --workers, each worker trains one student at a time.
    """

    def about(self) -> str:
        """The work in a few words."""
        each = f" of {long(self)}" if self.instances is None else ""  # instances have their own lengths
        return (
            f"compare {few(self.policies)} on {few(self.tasks, str(self.instances))}, "
            f"{self.seeds} student{'s' * (self.seeds != 1)}{each} for each"
        )

    def run(self) -> None:
        """Fills the table and prints it."""
        if self.serves():
            return
        from ackd.experiments.evaluation import Evaluation
        from ackd.experiments.policies import called

        evaluation = Evaluation(self)
        table = evaluation.run()
        print(table.report())
        for name, policy in map(called, evaluation.config.policies):
            if "/" in policy:
                print(f"policy:  {policy if policy == name else f'{name} is {policy}'}")
        print(f"pictures: ackd report {table.folder}\n{self.shown(table.folder)}")
