"""`ackd federate`: simulates a federation, from a plain and from a distilled start."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few, nothing_left
from ackd.experiments.student_options import FederateConfig


@dataclass(frozen=True, kw_only=True)
class Federate(FederateConfig):
    """Simulate a federation: each client has a part of the training data, and FedAvg averages their models. It starts
    from the plain model and from a model distilled from the clients' own models.

    Every client takes part in every round. The server holds the reward split and scores each round on it. Dev is read
    at the end. No score influences the training.
    """

    def about(self) -> str:
        """The work in a few words."""
        return (
            f"average {self.clients} clients' models over {self.rounds} rounds on {self.task}, from "
            f"{few(self.starts)} starts"
        )

    def run(self) -> None:
        """Runs the rounds from each start, and saves the best final model under OUTPUT/student."""
        from ackd.experiments.federated import FederatedTraining
        from ackd.experiments.results import ledger_lines
        from ackd.experiments.trained import ending

        training = FederatedTraining(self)
        if training.finished:
            nothing_left(self.output)
            return
        trained, place = training.run(), training.folder.path
        print(f"{trained.table}\n{ledger_lines(trained.costs)}")
        print(ending(trained, place / "student", self.text_columns))
        print(f"student: {place / 'student'} ({trained.result['saved']})\n{self.shown(place)}")
