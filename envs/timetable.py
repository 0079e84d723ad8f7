"""The timetable of an episode: phases, decisions, measurements, and the steps that a budget allows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ackd.errors import InputError
from ackd.mdp.episode import ends
from ackd.tasks import Split
from ackd.training.budget import Allowance
from ackd.training.distillation import Distillation
from ackd.types import Selection


def measured(decision: int, decisions: int, reward_every: int | None) -> bool:
    """Whether the reward split is measured after a decision; decisions are counted from 1."""
    return reward_every is not None and (decision % reward_every == 0 or decision == decisions)


@dataclass(frozen=True)
class Timetable:
    """The timetable of a distillation's episodes; arguments as in `DistillationEnv`.

    Raises:
        InputError: if a number is out of range.
    """

    distillation: Distillation
    decision_interval: int
    most_decisions: int | None
    reward_every: int | None
    reward_share: float
    flops_budget: float | None

    def __post_init__(self) -> None:
        decisions, every, share = self.most_decisions, self.reward_every, self.reward_share
        if self.decision_interval < 1:
            raise InputError(f"the decision interval must be at least 1 step, got {self.decision_interval}")
        if decisions is not None and decisions < 1:
            raise InputError(f"an episode of {decisions} decisions decides nothing: give at least 1")
        if every is not None and every < 1:
            raise InputError(f"rewards are measured every {every} decisions: give at least 1")
        if not 0 < share <= 1:
            raise InputError(f"{share} of the reward split cannot be measured: give a share above 0, at most 1")
        _ = self._allowance  # raises if the budget is invalid

    @cached_property
    def _allowance(self) -> Allowance | None:
        return None if self.flops_budget is None else Allowance(self.distillation, self.flops_budget)

    @property
    def ends(self) -> list[int]:
        """The number of finished phases at the end of each decision."""
        return ends(self.distillation.steps, self.decision_interval, self.most_decisions)

    @property
    def measured_split(self) -> Split:
        """The part of the reward split that is measured."""
        return self.distillation.evaluator.reward_part(self.reward_share)

    def until(self, steps_done: int) -> tuple[int, bool]:
        """The number of phases until the next decision, and whether the reward split is measured after them."""
        over = -(-steps_done // self.decision_interval)
        decision, end = next((number, end) for number, end in enumerate(self.ends, 1) if end > over)
        return end - over, measured(decision, len(self.ends), self.reward_every)

    def affordable(self, selection: Selection, *, seed: int, done: int, spent: float) -> list[tuple[Selection, int]]:
        """Divides the next phase: first the selection, as far as the budget allows it, then labels alone.

        Args:
            selection: the selection of the decision.
            seed: seed of the run's order of batches.
            done: the run's optimizer steps so far.
            spent: FLOPs of these steps.

        Returns:
            One or two selections with their optimizer steps, which add up to `decision_interval`.
        """
        steps = self.decision_interval
        if self._allowance is None:
            return [(selection, steps)]
        most = min(steps, self.distillation.steps - done)
        allowed = self._allowance.steps(selection.chosen, most, seed=seed, done=done, spent=spent)
        if allowed == most:
            return [(selection, steps)]
        alone = Selection(labels=selection.labels or 1.0)
        return [(selection, allowed), (alone, steps - allowed)] if allowed else [(alone, steps)]
