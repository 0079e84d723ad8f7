"""`ackd train`: trains an agent that learns what to select."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import long, nothing_left
from ackd.experiments.options import AgentConfig


@dataclass(frozen=True, kw_only=True)
class Train(AgentConfig):
    """Train a selection agent over several students' trainings, then distil one student with the learned policy."""

    def about(self) -> str:
        """The work in a few words."""
        each = f" of {long(self)}" if self.instances is None else ""  # instances have their own lengths
        return (
            f"train an agent ({self.algorithm}) over {self.episodes:,} students{each} on {self.task or self.instances}"
        )

    def run(self) -> None:
        """Trains the agent, distils a student with its policy, and saves both."""
        if self.serves():
            return
        from ackd.experiments.agent import AgentTraining

        training = AgentTraining(self)
        if training.finished:
            nothing_left(self.output)
            self.dismiss()
            return
        policy = training.run()
        if training.told:
            print(training.told)
        print(f"policy:  {policy}\n{self.shown(training.folder.path)}")
