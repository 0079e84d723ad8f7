"""Bandits: learners without a network, which choose an arm in each decision.

A bandit combines arms (`Subsets`, `PerType`) with a rule (`Ucb`, `Thompson`, `Exp3`). From an observation it reads only
the mask and, if it has several stages, the progress.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.agents.arms import BanditActor, PerType, Subsets, gumbel
from ackd.agents.learned import batch_of
from ackd.agents.policy import Observations, State, Transition
from ackd.errors import InputError, unknown

CREDITS = ("decision", "return")


@dataclass(frozen=True)
class Known:
    """The statistics of the arms in B stages."""

    values: Tensor  # [B, slots, arms]
    counts: Tensor  # same shape
    squares: Tensor  # [B, slots, 1]: sum of squared deviations of rewards from their arm's mean
    spread: Tensor  # [B, slots, 1], see `BanditActor`
    low: Tensor  # [B, 1, 1]: the lowest reward so far
    high: Tensor  # the highest

    @property
    def span(self) -> Tensor:
        """[B, 1, 1], the highest reward minus the lowest; 1 as long as they are equal."""
        return torch.where(self.high > self.low, self.high - self.low, 1.0)


@dataclass(frozen=True)
class Pull:
    """One decision of one environment, until its reward is known."""

    stage: int
    played: Tensor  # [slots, arms], 1 where played
    allowed: Tensor  # [slots, arms]
    chance: Tensor  # [slots, 1], probability of the played arm
    reward: float


class BanditRule(Protocol):
    """A rule that chooses the arm to play and learns from its reward."""

    def scores(self, known: Known, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """[B, slots, arms]; the allowed arm with the highest score is played."""
        ...

    def chances(self, known: Known, allowed: Tensor) -> Tensor:
        """[B, slots, arms], the probability of each arm, for rules that learn from it; otherwise 1."""
        ...

    def learn(self, known: Known, pull: Pull, gain: float) -> None:
        """Updates the statistics of the pull's stage in place."""
        ...


@dataclass(frozen=True)
class _Means:
    """Mean rewards of arms; every allowed arm is played once before any is played twice.

    Means forget: each reward multiplies the weights of all earlier rewards in its stage and slot by `memory`.

    Args:
        width: factor of the uncertainty.
        memory: 1 forgets nothing.
    """

    width: float
    memory: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and 0 < self.memory <= 1):
            raise InputError(f"width is {self.width} and memory {self.memory}: give width > 0 and 0 < memory <= 1")

    def chances(self, known: Known, allowed: Tensor) -> Tensor:
        """1, because this rule does not learn from probabilities."""
        return torch.ones_like(known.values)

    def learn(self, known: Known, pull: Pull, gain: float) -> None:
        """Updates the mean of the played arm, and the spread of all arms."""
        known.counts.mul_(self.memory).add_(pull.played)
        error = (gain - known.values) * pull.played
        known.values.add_(error / known.counts.clamp(min=1.0))  # a played arm has a count of at least 1
        again = (gain - known.values) * pull.played
        known.squares.mul_(self.memory).add_((error * again).sum(-1, keepdim=True))
        freedom = known.counts.sum(-1, keepdim=True) - (known.counts > 0).sum(-1, keepdim=True)
        known.spread.copy_(((known.span**2 + known.squares) / (1.0 + freedom.clamp(min=0.0))).sqrt())


@dataclass(frozen=True)
class Ucb(_Means):
    """Upper confidence bounds: the arm with the highest mean + width * span * sqrt(2 ln N / n).

    n is how often the arm was played, N the sum over arms, span the range of the rewards so far. With width 1, memory
    1 and rewards from 0 to 1 it is UCB1; the default explores for longer, because the reward of an arm in one
    stage depends on the exploration in the other stages.

    References:
        Auer, Cesa-Bianchi, Fischer, Finite-time Analysis of the Multiarmed Bandit Problem, Machine Learning 47, 2002,
        https://doi.org/10.1023/A:1013689704352; with memory < 1: Garivier, Moulines, On Upper-Confidence Bound Policies
        for Switching Bandit Problems, ALT 2011, https://arxiv.org/abs/0805.3415
    """

    width: float = 2.5
    memory: float = 1.0

    def scores(self, known: Known, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """[B, slots, arms], the bounds."""
        total = known.counts.sum(-1, keepdim=True).clamp(min=1.0)
        bonus = known.span * (2.0 * total.log() / known.counts).sqrt()
        return _untried_first(known.values + self.width * bonus, known, generator)


@dataclass(frozen=True)
class Thompson(_Means):
    """Posterior sampling: the arm with the highest draw from N(mean, (width * spread)^2 / n).

    spread^2 = (span^2 + sum of squared deviations from the arms' means) / (1 + rewards - arms played) is the variance
    of a reward, the same for all arms, and begins as if one deviation as large as the span had been seen.

    References:
        Agrawal, Goyal, Further Optimal Regret Bounds for Thompson Sampling, AISTATS 2013,
        https://arxiv.org/abs/1209.3353; Russo et al., A Tutorial on Thompson Sampling, 2018,
        https://arxiv.org/abs/1707.02038, with forgetting in its section on nonstationary systems
    """

    width: float = 2.0
    memory: float = 0.997

    def scores(self, known: Known, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """[B, slots, arms], the draws."""
        noise = torch.randn(known.values.shape, generator=generator)
        draws = known.values + self.width * noise * known.spread / known.counts.sqrt()
        return _untried_first(draws, known, generator)


@dataclass(frozen=True)
class Exp3:
    """Exponential weights: arm i is drawn with p_i = (1 - gamma) w_i / sum w + gamma / K.

        w_i <- w_i * exp(gamma * x / (p_i K)) for the arm that was played, K the number of allowed arms

    x is the reward, scaled to [0, 1] by the lowest and highest of its stage so far; 1/2 as long as these are equal.
    Values are ln w, up to a constant.

    References:
        Auer, Cesa-Bianchi, Freund, Schapire, The Nonstochastic Multiarmed Bandit Problem, SIAM J. Comput. 32, 2002,
        https://doi.org/10.1137/S0097539701398375
    """

    gamma: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise InputError(f"gamma is {self.gamma}: give more than 0 and at most 1")

    def scores(self, known: Known, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """[B, slots, arms], ln p plus noise, so that the highest is a draw from p."""
        return self.chances(known, allowed).log() + gumbel(known.values.shape, generator)

    def chances(self, known: Known, allowed: Tensor) -> Tensor:
        """[B, slots, arms], p; 0 where not allowed."""
        weights = known.values.masked_fill(~allowed, -math.inf).softmax(-1)
        return (1.0 - self.gamma) * weights + self.gamma * allowed / allowed.sum(-1, keepdim=True)

    def learn(self, known: Known, pull: Pull, gain: float) -> None:
        """Raises the weight of the played arm; scales the largest weight to 1, which changes no probability."""
        share = torch.where(known.high > known.low, ((gain - known.low) / known.span).clamp(0.0, 1.0), 0.5)
        known.counts.add_(pull.played)
        known.values.add_(self.gamma * pull.played * share / (pull.chance * pull.allowed.sum(-1, keepdim=True)))
        known.values.sub_(known.values.amax(-1, keepdim=True))


class Bandit:
    """A bandit as an `OnlinePolicy`, for actions that are subsets.

    Args:
        arms: the arms to choose from.
        rule: how it chooses and learns.
        stages: equal bins of the episode's progress, each with arms of its own; 1 makes a plain bandit.
        credit: the reward of an arm: that of its decision (`decision`), or the sum from its decision to the end of the
            episode (`return`). Arms that only prepare later gains need `return`.
        seed: seed of its own generator.

    Raises:
        InputError: if the credit is unknown or the number of stages is out of range.
    """

    def __init__(
        self, arms: Subsets | PerType, rule: BanditRule, *, stages: int = 1, credit: str = "return", seed: int = 0
    ) -> None:
        if credit not in CREDITS:
            raise unknown("credit", credit, CREDITS)
        self.rule, self.credit = rule, credit
        self.network = BanditActor(stages, arms.types, isinstance(arms, Subsets))
        self._squares = torch.zeros(stages, arms.slots, 1)
        self._low, self._high = torch.full((stages, 1, 1), math.inf), torch.full((stages, 1, 1), -math.inf)
        self._waiting: list[list[Pull]] = []  # of each environment, until its episode ends
        self._generator = torch.Generator().manual_seed(seed)

    def actor(self) -> BanditActor:
        """A copy of what it has learned so far."""
        return copy.deepcopy(self.network)

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int8], State | None]:
        """Actions [K_max] or [n, K_max]: the best arms so far if `deterministic`, else the rule's."""
        batch = batch_of(observation)
        if deterministic:
            bits = self.network.act(batch, True)
        else:
            stage, allowed = self.network.read(batch)
            scores = self.rule.scores(self._known(stage), allowed, self._generator)
            bits = self.network.wide(scores.masked_fill(~allowed, -math.inf).argmax(-1), batch["mask"])
        return bits.numpy().astype(np.int8).reshape(np.shape(observation["mask"])), state

    def update(self, transition: Transition) -> None:
        """Learns at once with the credit `decision`, at the end of an episode with `return`.

        Raises:
            InputError: if a reward is NaN or infinite, or the number of environments changes.
        """
        rewards, over = (np.atleast_1d(part) for part in (transition.reward, transition.over))
        if not np.isfinite(rewards).all():
            raise InputError("a bandit was told a reward that is NaN or infinite: find out where it comes from")
        self._waiting = self._waiting or [[] for _ in rewards]
        if len(self._waiting) != len(rewards):
            raise InputError(f"a bandit learns in {len(self._waiting)} environments, and was told of {len(rewards)}")
        for waiting, pull, ends in zip(self._waiting, self._pulls(transition, rewards), over, strict=True):
            waiting.append(pull)
            if ends or self.credit == "decision":
                gain = 0.0
                for earlier in reversed(waiting):
                    gain += earlier.reward
                    self._learn(earlier, gain)
                waiting.clear()

    def _pulls(self, transition: Transition, rewards: NDArray[Any]) -> list[Pull]:
        batch = batch_of(transition.observation)
        stage, allowed = self.network.read(batch)
        bits = torch.as_tensor(np.asarray(transition.action).reshape(batch["mask"].shape) > 0)
        arms = self.network.arms.of(self.network.narrow(bits & (batch["mask"] != 0))).unsqueeze(-1)
        # the probabilities at the time of the choice, before learning from this transition
        chances = self.rule.chances(self._known(stage), allowed).gather(-1, arms)
        played = torch.zeros(allowed.shape).scatter_(-1, arms, 1.0)
        parts = zip(stage.tolist(), played, allowed, chances, rewards.tolist(), strict=True)
        return [Pull(*part) for part in parts]

    def _learn(self, pull: Pull, gain: float) -> None:
        for bound, extreme in ((self._low, min), (self._high, max)):
            bound[pull.stage] = extreme(float(bound[pull.stage]), gain)
        self.rule.learn(self._known(slice(pull.stage, pull.stage + 1)), pull, gain)

    def _known(self, stage: Tensor | slice) -> Known:
        """A copy of the tables at these stages; for a slice, a view."""
        tables = (self.network.values, self.network.counts, self._squares, self.network.spread, self._low, self._high)
        return Known(*(table[stage] for table in tables))


def _untried_first(scores: Tensor, known: Known, generator: torch.Generator) -> Tensor:
    """Scores that put the arms that were never played first, in random order."""
    order = torch.rand(scores.shape, generator=generator)
    return torch.where(known.counts > 0, scores, 1e9 + 1e6 * order)
