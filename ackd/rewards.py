"""What a decision earned. A reward reads the episode so far, the last phase included, and keeps no state of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ackd.episode import Episode
from ackd.errors import unknown
from ackd.types import Standing

MIN_GAP = 0.01  # a smaller or negative gap to the teacher is noise: plain differences are used instead


@dataclass(frozen=True)
class Earned:
    """The parts of one decision's reward."""

    improvement: float
    cost: float = 0.0  # what was paid, already weighted
    bonus: float = 0.0

    @property
    def total(self) -> float:
        """`improvement - cost + bonus`."""
        return self.improvement - self.cost + self.bonus


class Reward(Protocol):
    """`(episode so far) -> what its last decision earned`."""

    def __call__(self, episode: Episode) -> Earned:
        """The parts of the last decision's reward."""
        ...


@dataclass(frozen=True)
class GapClosed:
    """The share of the gap to the teacher that the decision closed, less what it cost.

        r = (Phi(after) - Phi(before)) / (Phi_teacher - Phi_0) - cost_weight * cost

    Phi is minus the label loss (or the score) on the reward split; cost is the decision's FLOPs as a share of what
    transferring everything would take in the whole run. The improvements of an episode telescope: they sum to the
    share of the gap that the run closed, however often it is measured; a decision after which nobody measured earns
    nothing, and the next measurement counts from the last one. Where the gap is negative or below `MIN_GAP`, plain
    differences are used.
    """

    cost_weight: float = 0.1
    on: Literal["loss", "score"] = "loss"

    def gap(self, episode: Episode) -> float | None:
        """What improvements are shares of; None where there is no gap to close, or nothing to compare with."""
        if not (episode.start and episode.teacher):
            return None
        gap = self._phi(episode.teacher) - self._phi(episode.start)
        return gap if gap >= MIN_GAP else None

    def __call__(self, episode: Episode) -> Earned:
        """The parts of the last decision's reward."""
        last, before = episode.phases[-1], episode.standing_before
        gained = self._phi(last.standing) - self._phi(before) if last.standing and before else 0.0
        cost = last.flops / last.flops_all * last.steps / episode.steps
        return Earned(gained / (self.gap(episode) or 1.0), self.cost_weight * cost)

    def _phi(self, standing: Standing) -> float:
        return standing.score if self.on == "score" else -standing.loss


@dataclass(frozen=True)
class NegativeLoss:
    """Minus the loss on the reward split after the decision; 0 where nobody measured."""

    def __call__(self, episode: Episode) -> Earned:
        """The parts of the last decision's reward."""
        standing = episode.phases[-1].standing
        return Earned(-standing.loss if standing else 0.0)


@dataclass(frozen=True)
class Final:
    """The score on the reward split at the end of the episode; 0 before."""

    def __call__(self, episode: Episode) -> Earned:
        """The parts of the last decision's reward."""
        standing = episode.phases[-1].standing
        return Earned(standing.score if standing and not episode.decisions_left else 0.0)


@dataclass(frozen=True)
class Exploring:
    """Another reward with a bonus for selections that differ from what was selected before.

        soft: eta * (1 - cos(a_t, a_{t-1}))        hard: eta / sqrt(1 + times a_t was chosen before)

    References:
        Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection, Findings
        of EMNLP 2022, https://arxiv.org/abs/2302.00444. The paper's coefficient and exact forms are not known to us.
    """

    reward: Reward
    form: Literal["soft", "hard"] = "hard"
    eta: float = 0.05

    def __call__(self, episode: Episode) -> Earned:
        """The parts of the last decision's reward."""
        earned = self.reward(episode)
        bonus = self.eta * (self._novelty(episode) if self.form == "soft" else self._rarity(episode))
        return Earned(earned.improvement, earned.cost, earned.bonus + bonus)

    def _novelty(self, episode: Episode) -> float:
        if len(episode.phases) < 2:
            return 0.0
        names = sorted({name for phase in episode.phases[-2:] for name in phase.selection.weights})
        last, before = (np.array([p.selection.weights.get(n, 0.0) for n in names]) for p in episode.phases[:-3:-1])
        norms = float(np.linalg.norm(last) * np.linalg.norm(before))
        if norms == 0:
            return float(last.any() != before.any())
        return 1.0 - float(last @ before) / norms

    def _rarity(self, episode: Episode) -> float:
        chosen = set(episode.phases[-1].selection.chosen)
        count = sum(set(phase.selection.chosen) == chosen for phase in episode.phases[:-1])
        return float((1 + count) ** -0.5)


REWARDS: dict[str, Callable[[float], Reward]] = {
    "gap": lambda cost_weight: GapClosed(cost_weight),
    "score-gap": lambda cost_weight: GapClosed(cost_weight, on="score"),
    "neg-loss": lambda cost_weight: NegativeLoss(),
    "final": lambda cost_weight: Final(),
    "gap+explore-soft": lambda cost_weight: Exploring(GapClosed(cost_weight), "soft"),
    "gap+explore-hard": lambda cost_weight: Exploring(GapClosed(cost_weight), "hard"),
}


def named(name: str, cost_weight: float) -> Reward:
    """The reward of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name](cost_weight)
