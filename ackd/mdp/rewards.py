"""Rewards: functions of the episode so far, the last phase included, without state of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Literal, Protocol

import numpy as np

from ackd.errors import InputError, unknown
from ackd.mdp.episode import Episode
from ackd.types import EvalResult

MIN_GAP = 0.01  # a smaller or negative gap to the teacher is noise; plain differences are used instead
Measure = Literal["loss", "score", "probability", "divergence", "teacher_correlation", "agreement", "either"]
LOWER = frozenset({"loss", "divergence"})  # for these measures less is better
COMPARED = frozenset({"divergence", "teacher_correlation"})  # these measures are always 0 without a teacher
GAPS: dict[str, Measure] = {
    "loss-gap": "loss",
    "score-gap": "score",
    "probability-gap": "probability",
    "kl-gap": "divergence",
    "margin-gap": "teacher_correlation",
    "agreement-gap": "agreement",
    "either-gap": "either",
}
LABELS_COUNT = 0.95  # factor of the label correlation relative to the teacher's, in the measure `either`
LEAST_KNOWN = 0.05  # a teacher with a smaller correlation to the labels knows nothing of them


@dataclass(frozen=True)
class RewardTerms:
    """The parts of one decision's reward."""

    improvement: float
    cost: float = 0.0  # already weighted
    bonus: float = 0.0

    @property
    def total(self) -> float:
        """`improvement - cost + bonus`."""
        return self.improvement - self.cost + self.bonus


class Reward(Protocol):
    """`(episode so far) -> reward of its last phase`; a decision earns the sum over its phases."""

    def __call__(self, episode: Episode) -> RewardTerms | float:
        """The parts of the last phase's reward, or its total as one number."""
        ...


def earned_of(given: object) -> RewardTerms:
    """Converts the result of a reward function to its parts.

    Raises:
        InputError: if it is neither a finite number nor finite `RewardTerms`.
    """
    if isinstance(given, RewardTerms) and math.isfinite(given.total):
        return given
    if isinstance(given, Real) and math.isfinite(given):
        return RewardTerms(float(given))
    raise InputError(f"a reward answered {given!r:.80}: let it answer a finite number, or an ackd.RewardTerms")


@dataclass(frozen=True)
class GapClosed:
    """The share of the gap to the teacher that a decision closed, minus its cost.

        r = (Phi(after) - Phi(before)) / (Phi_teacher - Phi_0) - cost_weight * cost

    Phi is a measure on the reward split. z are the student's logits, t the teacher's, p and q their softmax, N the
    examples, C the classes, and m(z) = z - mean over classes of z, all [N, C]:

        loss                 -L,  L = -mean log p_y;  for regression mean (z - y)^2
        score                the task's main metric
        probability          mean p_y;  for regression 0
        divergence           -mean KL(q || p), 0 for the teacher itself;  for regression -mean (z - t)^2
        teacher_correlation  r_t = Pearson(m(z), m(t)), 1 for the teacher itself;  for regression Pearson(z, t)
        agreement            (r_t + r_y) / 2,  r_y = Pearson(m(z), onehot(y) - 1 / C);  for regression Pearson(z, y)
        either               max(r_t, 0.95 r_y / r_y of the teacher);  r_y if that is below 0.05, or without a teacher

    For language models, L is the mean over all next tokens, and `either` is the same as `loss`.

    `either` judges a student by its agreement with the teacher, and a student that outdoes the teacher by the labels.
    Of all measures it ranks selections most like scores on other data (benchmarks/reward_alignment.py).

    Cost is the decision's FLOPs as a share of transferring everything in the whole run. The improvements of an episode
    telescope: they sum to the share of the gap that the run closed, however often it is measured. A decision without a
    measurement improves nothing, and the next measurement counts from the last one. If the gap of the measure is
    negative or below `MIN_GAP`, plain differences of Phi are used.
    """

    cost_weight: float = 0.0
    on: Measure = "either"

    def gap(self, episode: Episode) -> float | None:
        """The gap that improvements are divided by; None if there is no gap or nothing to compare with."""
        if not (episode.start and episode.teacher):
            return None
        gap = self._phi(episode, episode.teacher) - self._phi(episode, episode.start)
        return gap if gap >= MIN_GAP else None

    def __call__(self, episode: Episode) -> RewardTerms:
        """The parts of the last decision's reward."""
        last, before = episode.phases[-1], episode.eval_before
        gained = (
            self._phi(episode, last.eval_result) - self._phi(episode, before) if last.eval_result and before else 0.0
        )
        cost = last.flops / last.flops_all * last.steps / episode.steps
        return RewardTerms(gained / (self.gap(episode) or 1.0), self.cost_weight * cost)

    def measured(self, episode: Episode, eval_result: EvalResult) -> float:
        """The plain value of the measure, for one result of the episode."""
        if self.on != "either":
            return float(getattr(eval_result, self.on))
        known = episode.teacher.label_correlation if episode.teacher else 0.0
        if known < LEAST_KNOWN:
            return eval_result.label_correlation
        return max(eval_result.teacher_correlation, LABELS_COUNT * eval_result.label_correlation / known)

    def _phi(self, episode: Episode, eval_result: EvalResult) -> float:
        value = self.measured(episode, eval_result)
        return -value if self.on in LOWER else value


@dataclass(frozen=True)
class NegativeLoss:
    """Minus the loss on the reward split after the decision; 0 if it was not measured."""

    def __call__(self, episode: Episode) -> RewardTerms:
        """The parts of the last decision's reward."""
        eval_result = episode.phases[-1].eval_result
        return RewardTerms(-eval_result.loss if eval_result else 0.0)


@dataclass(frozen=True)
class Final:
    """The score on the reward split at the end of the episode; 0 before."""

    def __call__(self, episode: Episode) -> RewardTerms:
        """The parts of the last decision's reward."""
        eval_result = episode.phases[-1].eval_result
        return RewardTerms(eval_result.score if eval_result and not episode.decisions_left else 0.0)


@dataclass(frozen=True)
class Exploring:
    """Another reward plus a bonus for selections that differ from earlier ones.

        soft: eta * (1 - cos(a_t, a_{t-1}))        hard: eta / sqrt(1 + times a_t was chosen before)

    References:
        Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection, Findings
        of EMNLP 2022, https://arxiv.org/abs/2302.00444. The paper's coefficient and exact forms are not known to us.
    """

    reward: Reward
    form: Literal["soft", "hard"] = "hard"
    eta: float = 0.05

    def __call__(self, episode: Episode) -> RewardTerms:
        """The parts of the last decision's reward."""
        earned = earned_of(self.reward(episode))
        bonus = self.eta * (self._novelty(episode) if self.form == "soft" else self._rarity(episode))
        return RewardTerms(earned.improvement, earned.cost, earned.bonus + bonus)

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


def gap_of(reward: Reward) -> GapClosed | None:
    """The `GapClosed` inside a reward, without its bonus; None if the reward is of another kind."""
    inner = reward.reward if isinstance(reward, Exploring) else reward
    return inner if isinstance(inner, GapClosed) else None


def without_gap(reward: Reward, episode: Episode) -> str | None:
    """The warning for an episode that begins without a gap to close; None if none is needed."""
    inner = gap_of(reward)
    if inner is None or episode.start is None or inner.gap(episode) is not None:
        return None
    if episode.teacher is None:
        earned = "0: take one that needs none, such as loss-gap" if inner.on in COMPARED else "plain differences"
        return f"there is no teacher to compare with, so rewards are {earned}"
    measure = "an agreement" if inner.on in ("either", "agreement") else f"a {inner.on.replace('_', ' ')}"
    student, teacher = inner.measured(episode, episode.start), inner.measured(episode, episode.teacher)
    return (
        f"the student starts with {measure} of {student:.3f} on the reward split, and the teacher has {teacher:.3f}: "
        "there is no gap to close, so rewards are plain differences"
    )


def for_language(reward: Reward) -> Reward:
    """The same reward for language models: `either` becomes the loss; rewards of one's own are unchanged.

    Raises:
        InputError: if it compares logits, of which those of all tokens are too many to keep.
    """
    if isinstance(reward, Exploring):
        return replace(reward, reward=for_language(reward.reward))
    if not isinstance(reward, GapClosed):
        return reward
    if reward.on == "either":
        return replace(reward, on="loss")
    if reward.on not in ("loss", "score"):
        name = next(name for name, measure in GAPS.items() if measure == reward.on)
        raise InputError(
            f"the reward {name!r} compares the logits of all tokens, which are too many to keep: take gap, loss-gap or "
            "score-gap"
        )
    return reward


REWARDS: dict[str, Callable[[float], Reward]] = {
    "gap": GapClosed,
    **{name: partial(GapClosed, on=measure) for name, measure in GAPS.items()},
    "neg-loss": lambda cost_weight: NegativeLoss(),
    "final": lambda cost_weight: Final(),
    "gap+explore-soft": lambda cost_weight: Exploring(GapClosed(cost_weight), "soft"),
    "gap+explore-hard": lambda cost_weight: Exploring(GapClosed(cost_weight), "hard"),
}


def named(name: str, cost_weight: float) -> Reward:
    """The reward with this name.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name](cost_weight)


def reward_of(given: str | Reward, cost_weight: float) -> Reward:
    """The reward with this name; a `Reward` is returned unchanged.

    Raises:
        InputError: if the name is unknown, or the value is not a reward.
    """
    if isinstance(given, str):
        return named(given, cost_weight)
    if not callable(given) or isinstance(given, type):
        raise InputError(f"the reward is {given!r:.80}: give a name, or a function of the episode so far")
    return given
