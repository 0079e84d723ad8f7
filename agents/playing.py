"""Common parts of learners of schedules: they play schedules, and their policy is a schedule."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.agents.learned import batch_of
from ackd.agents.policy import Observations, State
from ackd.agents.schedule import MEMBER, Schedule
from ackd.mdp.observations import FAMILIES
from ackd.types import LABELS

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Array = NDArray[np.float64]


class Scheduled:
    """A learner whose policy is the schedule `actor`."""

    flops = 0.0  # only a few sums
    actor: Schedule

    @property
    def policy(self) -> Self:
        """The learner itself, which acts by its learned schedule."""
        return self

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """The actions of the schedule."""
        with torch.no_grad():
            action = self.actor.act(batch_of(observation), deterministic=True)
        return action.numpy().reshape(np.shape(observation["mask"])), state


def play(
    env: VecEnv, observation: Observations, schedules: Sequence[Schedule], decisions: int
) -> tuple[Array, Observations]:
    """The return of a student under each schedule, [N], and the first observation of the next episode."""
    total = np.zeros(env.num_envs)
    for _ in range(decisions):
        batch = batch_of(observation)
        rows = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(len(schedules))]
        actions = [one.act(row, deterministic=True) for one, row in zip(schedules, rows, strict=True)]
        following, rewards, _, _ = env.step(torch.cat(actions).numpy())
        assert isinstance(following, dict)
        observation = following
        total += rewards
    return total, observation


def families_in(observation: Observations) -> list[str]:
    """The families of the terms that can be weighted, in the order of `ackd.mdp.observations.FAMILIES`."""
    batch = batch_of(observation)
    members = batch["knowledge"].reshape(*batch["mask"].shape, -1)[..., MEMBER]
    there = (members * batch["mask"].unsqueeze(-1)).amax((0, 1)) > 0
    return [FAMILIES[int(place)] for place in there.nonzero()[:, 0]]


def completed(table: Array, seen: Collection[str]) -> Array:
    """[rows, families]; families of types that were never seen get the mean of the seen ones."""
    whole = table.copy()
    types = [FAMILIES.index(name) for name in sorted(set(seen) - {LABELS})]
    for place, name in enumerate(FAMILIES):
        if name not in seen:
            whole[:, place] = whole[:, types].mean(1) if types and name != LABELS else 0.0
    return whole
