"""One episode from the agent's side: observations, rewards and infos. It trains nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.envs.checks import action_masks, check_action
from ackd.envs.replay import Record
from ackd.mdp.action_spaces import Action, Choice
from ackd.mdp.episode import Episode, Phase
from ackd.mdp.observations import Observation, Signals
from ackd.mdp.rewards import Reward, RewardTerms, earned_of
from ackd.types import LABELS, Selection, StepMetrics

ERROR_RETURN = -1.0  # the return of an episode that diverged, whatever it had earned before
Answer = tuple[Observation, float, bool, dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """One phase of a decision."""

    episode: Episode  # up to this phase
    earned: RewardTerms
    info: dict[str, Any]


class Trajectory:
    """Turns phases into observations, rewards and infos.

    Args:
        signals: computes the observations.
        choice: the action space.
        reward: computes what a decision earns.
    """

    def __init__(self, signals: Signals, choice: Choice, reward: Reward) -> None:
        self.signals, self.choice, self.reward = signals, choice, reward
        self.episode: Episode | None = None
        self.seed = 0
        self._actions: list[list[float]] = []
        self._rewards: list[float] = []
        self.latest: list[Step] = []  # the phases of the last decision
        self.on_phase: Callable[[Phase], object] | None = None  # called with each phase, as for a progress bar

    @property
    def over(self) -> bool:
        """Whether no decision is left: before the first episode, at the end of the budget, after divergence."""
        episode = self.episode
        return episode is None or not episode.decisions_left or not all(phase.finite for phase in episode.phases)

    @property
    def decisions(self) -> int:
        """The number of decisions so far."""
        return len(self._actions)

    def begin(self, episode: Episode, seed: int) -> tuple[Observation, dict[str, Any]]:
        """The first observation and info of an episode without phases."""
        self.episode, self.seed = episode, seed
        self._actions, self._rewards, self.latest = [], [], []
        return self.signals.observe(episode), {"seed": seed, "action_mask": self.choice.mask}

    def decide(self, action: Action) -> Selection:
        """Begins a decision; returns the action's selection.

        Raises:
            InputError: if the action is not in the action space.
        """
        action = check_action(self.choice.space, action)
        selection = self.choice.selection(action)
        self._actions.append(np.atleast_1d(action).tolist())
        self._rewards.append(0.0)
        self.latest = []
        return selection

    def then(self, phase: Phase) -> None:
        """Adds a phase to the present decision."""
        assert self.episode is not None
        self.episode = self.episode.then(phase)
        earned = RewardTerms(ERROR_RETURN - math.fsum(self._rewards))
        if phase.finite:
            earned = earned_of(self.reward(self.episode))
        self._rewards[-1] = self._rewards[-1] + earned.total if self.latest else earned.total
        self.latest.append(Step(self.episode, earned, self._info(phase, earned)))
        if self.on_phase is not None:
            self.on_phase(phase)

    def answer(self) -> Answer:
        """The result of a decision: observation, reward, whether the episode is over, and info."""
        assert self.episode is not None
        info = dict(self.latest[-1].info)
        for part in ("improvement", "cost", "bonus"):
            info[f"reward/{part}"] = sum(step.info[f"reward/{part}"] for step in self.latest)
        return self.signals.observe(self.episode), self._rewards[-1], self.over, info

    def skipped(self) -> Answer:
        """The result of a decision after the episode's end: nothing is learned and nothing earned."""
        assert self.episode is not None
        last = self.episode.phases[-1]
        nothing = StepMetrics(0.0, 0.0, 0.0, 0.0, 0.0, {})
        still = replace(last, selection=Selection(), report=nothing, eval_result=None, flops=0.0)
        info = self._info(still) | {"error/type": "divergence"}
        self.latest = [Step(self.episode, RewardTerms(0.0), info)]
        return self.signals.observe(self.episode), 0.0, True, info

    def action_masks(self) -> NDArray[np.bool_]:
        """The allowed values of an action, as sb3-contrib's MaskablePPO reads them.

        Raises:
            InputError: if the action space is not discrete.
        """
        return action_masks(self.choice)

    def record(self) -> Record:
        """The episode so far."""
        return Record(self.seed, tuple(map(tuple, self._actions)), tuple(self._rewards))

    def state_dict(self) -> dict[str, Any]:
        """The episode so far, for `load_state_dict`."""
        return {
            "episode": self.episode,
            "seed": self.seed,
            "actions": list(self._actions),
            "rewards": list(self._rewards),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.episode, self.seed = state["episode"], state["seed"]
        self._actions, self._rewards = list(state["actions"]), list(state["rewards"])

    def _info(self, phase: Phase, earned: RewardTerms = RewardTerms(0.0)) -> dict[str, Any]:  # noqa: B008 - frozen
        """The info on a phase: plain finite values, the same keys each time."""
        assert self.episode is not None
        eval_result = self.episode.eval_result
        losses = {**phase.report.losses, LABELS: phase.report.labels}
        numbers = {
            "reward/improvement": earned.improvement,
            "reward/cost": earned.cost,
            "reward/bonus": earned.bonus,
            **{f"loss/{name}": losses.get(name, 0.0) for name in (LABELS, *self.signals.families)},
            "grad_norm": phase.report.grad_norm,
            "reward_split/loss": eval_result.loss if eval_result else 0.0,
            "reward_split/score": eval_result.score if eval_result else 0.0,
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
