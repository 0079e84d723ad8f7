"""One episode as an agent lives it: what it observes, what it earns, what it is told. It trains nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ackd.choices import Action, Choice
from ackd.episode import Episode, Phase
from ackd.rewards import COMPARED, Earned, Reward, gap_of
from ackd.signals import Observation, Signals

logger = logging.getLogger("ackd")

ERROR_RETURN = -1.0  # the return of an episode that diverged, whatever it had earned before
Step = tuple[Observation, float, bool, dict[str, Any]]


@dataclass(frozen=True)
class Record:
    """What an episode can be replayed from, and what it claims."""

    seed: int
    actions: Sequence[Sequence[float]]
    rewards: Sequence[float]


class Trajectory:
    """Turns phases into observations, rewards and infos.

    Args:
        signals: what is observed.
        choice: the action space.
        reward: what a decision earns.
    """

    def __init__(self, signals: Signals, choice: Choice, reward: Reward) -> None:
        self.signals, self.choice, self.reward = signals, choice, reward
        self.episode: Episode | None = None
        self.seed = 0
        self._actions: list[list[float]] = []
        self._rewards: list[float] = []
        self._warned = False

    @property
    def over(self) -> bool:
        """Whether no decision is left: before the first episode, at the end of the budget, after divergence."""
        episode = self.episode
        return episode is None or not episode.decisions_left or not all(phase.finite for phase in episode.phases)

    def begin(self, episode: Episode, seed: int) -> tuple[Observation, dict[str, Any]]:
        """The first observation and info of an episode without phases."""
        self.episode, self.seed = episode, seed
        self._actions, self._rewards = [], []
        self._warn(episode)
        return self.signals.observe(episode), {"seed": seed, "action_mask": self.choice.mask}

    def then(self, action: Action, phase: Phase) -> Step:
        """Observation, reward, whether the episode is over, and info, after an action and the phase under it."""
        assert self.episode is not None
        self.episode = self.episode.then(phase)
        earned = self.reward(self.episode) if phase.finite else Earned(ERROR_RETURN - math.fsum(self._rewards))
        self._actions.append(np.atleast_1d(action).tolist())
        self._rewards.append(earned.total)
        return self.signals.observe(self.episode), earned.total, self.over, self.info(phase, earned)

    def record(self) -> Record:
        """The episode so far."""
        return Record(self.seed, tuple(map(tuple, self._actions)), tuple(self._rewards))

    def state_dict(self) -> dict[str, Any]:
        """The episode so far, as `load_state_dict` takes it."""
        return {
            "episode": self.episode,
            "seed": self.seed,
            "actions": list(self._actions),
            "rewards": list(self._rewards),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.episode, self.seed = state["episode"], state["seed"]
        self._actions, self._rewards = list(state["actions"]), list(state["rewards"])

    def _warn(self, episode: Episode) -> None:
        reward = gap_of(self.reward)
        if self._warned or not episode.start or reward is None or reward.gap(episode) is not None:
            return
        self._warned = True
        if not episode.teacher:
            earned = "0: take one that needs none, such as loss-gap" if reward.on in COMPARED else "plain differences"
            logger.warning("there is no teacher to compare with, so rewards are %s", earned)
            return
        logger.warning(
            "the student starts with %s %s of %.3f on the reward split, and the teacher has %.3f: there is no gap to "
            "close, so rewards are plain differences",
            "an" if reward.on == "agreement" else "a",
            reward.on.replace("_", " "),
            reward.measured(episode.start),
            reward.measured(episode.teacher),
        )

    def info(self, phase: Phase, earned: Earned = Earned(0.0)) -> dict[str, Any]:  # noqa: B008 - frozen
        """What is told of a phase besides observation and reward: plain, finite, the same keys each time."""
        assert self.episode is not None
        standing = self.episode.standing
        numbers = {
            "reward/improvement": earned.improvement,
            "reward/cost": earned.cost,
            "reward/bonus": earned.bonus,
            "loss/labels": phase.report.labels,
            **{f"loss/{name}": phase.report.losses.get(name, 0.0) for name in self.signals.families},
            "grad_norm": phase.report.grad_norm,
            "reward_split/loss": standing.loss if standing else 0.0,
            "reward_split/score": standing.score if standing else 0.0,
            "progress": self.episode.steps_done / self.episode.steps,
            "flops": phase.flops,
            "flops_share": phase.flops / phase.flops_all,
        }
        return {
            "action_mask": self.choice.mask,
            "action/effective": "+".join(phase.selection.chosen) or "labels",
            "error/type": "" if phase.finite else "divergence",
            **{name: value if math.isfinite(value) else 0.0 for name, value in numbers.items()},
        }
