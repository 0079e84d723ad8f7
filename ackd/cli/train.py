"""`ackd train`: an agent that learns what to select."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import long, nothing_left
from ackd.experiments.options import AgentConfig


@dataclass(frozen=True, kw_only=True)
class Train(AgentConfig):
    """Train a selection agent over several students' trainings, then distil one student with what it learned."""

    def about(self) -> str:
        """What it is about to do."""
        each = f" of {long(self)}" if self.instances is None else ""  # which says itself how long
        return (
            f"train an agent ({self.algorithm}) over {self.episodes:,} students{each} on {self.task or self.instances}"
        )

    def run(self) -> None:
        """Trains the agent, distils a student with it, and saves both."""
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
