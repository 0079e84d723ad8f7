"""Distillation as a Gymnasium environment: one episode is one student's training, one decision a phase of steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ackd.choices import Action, Choice, Subset, Weights
from ackd.episode import Episode, Phase
from ackd.errors import InputError, unknown
from ackd.loop import Distillation
from ackd.rewards import MIN_GAP, Earned, GapClosed, Reward
from ackd.signals import Observation, Signals
from ackd.types import Standing

logger = logging.getLogger("ackd")

CHOICES: dict[str, type[Subset | Weights]] = {"subset": Subset, "weights": Weights}
ERROR_RETURN = -1.0  # the return of an episode that diverged, whatever it had earned before


@dataclass(frozen=True)
class Record:
    """What an episode can be replayed from, and what it claims."""

    seed: int
    actions: Sequence[Sequence[float]]
    rewards: Sequence[float]


class DistillationEnv(gymnasium.Env[Observation, Action]):
    """A student's training, one decision at a time.

    Args:
        distillation: what is trained.
        decision_interval: optimizer steps between two decisions.
        reward: what a decision earns.
        choice: `subset` (`MultiBinary`), `weights` (`Box`), or an action space of one's own, such as `Stages`.
        k_max: length of the action; entries beyond the knowledge types are masked.

    The end of the budget and divergence are `terminated`; nothing is ever `truncated`. After divergence the last
    reward makes the whole return `ERROR_RETURN`, and `info["error/type"]` says so.

    Raises:
        InputError: if `k_max` holds fewer entries than there are knowledge types, or a number is out of range.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(
        self,
        distillation: Distillation,
        *,
        decision_interval: int = 20,
        reward: Reward | None = None,
        choice: str | Choice = "subset",
        k_max: int = 8,
    ) -> None:
        families = distillation.families
        if k_max < len(families):
            raise InputError(f"k_max is {k_max}, but there are {len(families)} knowledge types: raise it")
        if decision_interval < 1:
            raise InputError(f"the decision interval must be at least 1 step, got {decision_interval}")
        if isinstance(choice, str) and choice not in CHOICES:
            raise unknown("action space", choice, CHOICES)
        self.distillation = distillation
        self.decision_interval = decision_interval
        self.reward = reward or GapClosed()
        self.knowledge = tuple(families)
        self.choice: Choice = CHOICES[choice](self.knowledge, k_max) if isinstance(choice, str) else choice
        self.signals = Signals(families, distillation.type_prices, k_max)
        self.observation_space: spaces.Space[Any] = self.signals.space
        self.action_space = self.choice.space
        self.episode: Episode | None = None
        self._warned = False
        self._actions: list[list[float]] = []
        self._rewards: list[float] = []

    @property
    def decisions(self) -> int:
        """Decisions in an episode."""
        return -(-self.distillation.steps // self.decision_interval)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins with a new student; `seed` fixes its initialisation, data order and dropout.

        Raises:
            InputError: for any option, since there are none.
        """
        super().reset(seed=seed)
        if options:
            raise InputError(f"reset takes no options, got {', '.join(map(str, options))}")
        distillation = self.distillation
        distillation.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        reward_split = distillation.task.reward
        start = distillation.measure(reward_split, "reward")
        teacher = distillation.measure_teacher(reward_split, "reward")
        self.episode = Episode(start, teacher, distillation.steps, self.decision_interval)
        if self.episode.gap < MIN_GAP and not self._warned:
            self._warned = True
            logger.warning(
                "the student starts with a loss of %.3f on the reward split, and the teacher has %.3f: there is no gap "
                "to close, so rewards are plain differences",
                start.loss,
                teacher.loss,
            )
        self._actions, self._rewards = [], []
        return self.signals.observe(self.episode), {"seed": distillation.seed, "action_mask": self.choice.mask}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Trains for one phase under the action's selection.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset and after the end of an episode.
        """
        if self.episode is None or not self.episode.decisions_left or (self._rewards and not self._alive):
            raise gymnasium.error.ResetNeeded("the episode has not begun or has ended: call reset()")
        phase = self._train(action)
        self.episode = self.episode.then(phase)
        earned = self.reward(self.episode) if phase.finite else Earned(ERROR_RETURN - math.fsum(self._rewards))
        self._actions.append(np.atleast_1d(action).tolist())
        self._rewards.append(earned.total)
        terminated = not phase.finite or not self.episode.decisions_left
        return self.signals.observe(self.episode), earned.total, terminated, False, self._info(phase, earned)

    def record(self) -> Record:
        """The episode so far, as `validate` takes it."""
        return Record(self.distillation.seed, tuple(map(tuple, self._actions)), tuple(self._rewards))

    def validate(self, record: Record) -> bool:
        """Whether replaying a record's actions from its seed earns the rewards it claims, on a fork of this one."""
        replay = self.fork()
        replay.reset(seed=record.seed)
        shape, dtype = self.action_space.shape, self.action_space.dtype
        rewards = [replay.step(np.asarray(action, dtype=dtype).reshape(shape))[1] for action in record.actions]
        return np.allclose(rewards, record.rewards, rtol=1e-5, atol=1e-6)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the episode, and the episodes after it, depend on."""
        return {
            "distillation": self.distillation.state_dict(),
            "episode": self.episode,
            "actions": list(self._actions),
            "rewards": list(self._rewards),
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict` of an environment with the same arguments."""
        self.distillation.load_state_dict(state["distillation"])
        self.episode = state["episode"]
        self._actions, self._rewards = list(state["actions"]), list(state["rewards"])
        self.np_random.bit_generator.state = state["np_random"]

    def fork(self) -> DistillationEnv:
        """An independent environment in the same state; data and teacher, which never change, are shared."""
        twin = DistillationEnv(
            self.distillation.fork(),
            decision_interval=self.decision_interval,
            reward=self.reward,
            choice=self.choice,
            k_max=self.signals.k_max,
        )
        twin.load_state_dict(self.state_dict())
        return twin

    @property
    def _alive(self) -> bool:
        assert self.episode is not None
        return all(phase.finite for phase in self.episode.phases)

    def _train(self, action: Action) -> Phase:
        distillation = self.distillation
        selection = self.choice.selection(np.asarray(action))
        steps, price, price_of_all = distillation.steps_done, distillation.price, distillation.price_of_all
        learning_rate = distillation.student.learning_rate
        report = distillation.advance(selection, self.decision_interval)
        failed = Standing(math.nan, math.nan)
        return Phase(
            selection,
            report,
            distillation.measure(distillation.task.reward, "reward") if report.finite else failed,
            steps=distillation.steps_done - steps,
            learning_rate=learning_rate,
            flops=distillation.price - price,
            flops_all=distillation.price_of_all - price_of_all,
        )

    def _info(self, phase: Phase, earned: Earned) -> dict[str, Any]:
        assert self.episode is not None
        numbers = {
            "reward/improvement": earned.improvement,
            "reward/cost": earned.cost,
            "reward/bonus": earned.bonus,
            "loss/labels": phase.report.labels,
            **{f"loss/{name}": phase.report.losses.get(name, 0.0) for name in self.knowledge},
            "grad_norm": phase.report.grad_norm,
            "reward_split/loss": phase.standing.loss,
            "reward_split/score": phase.standing.score,
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
