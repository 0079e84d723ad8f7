"""`ackd federate`: a simulated federation, from a plain and from a distilled start."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few, nothing_left
from ackd.experiments.student_options import FederateConfig


@dataclass(frozen=True, kw_only=True)
class Federate(FederateConfig):
    """Simulate a federation: clients with their own parts of the training data, averaged by FedAvg, from the starting
    model and from one that was distilled from the clients' own models.

    Every client takes part in every round. A round's score is that of the reward split, which the server holds; dev is
    read at the end. Neither steers anything.
    """

    def about(self) -> str:
        """What it is about to do."""
        return (
            f"average {self.clients} clients' models over {self.rounds} rounds on {self.task}, from "
            f"{few(self.starts)} starts"
        )

    def run(self) -> None:
        """Runs the rounds from each start, and saves the best of the models that they end with under OUTPUT/student."""
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
