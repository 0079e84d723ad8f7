"""Runs several learners one after the other in the same environments, without skipping students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class Continuing(VecEnvWrapper):
    """A wrapper that continues episodes that have just begun, instead of beginning others.

    Environments begin a new episode automatically when one ends, so another reset would skip a student in each. They
    are seeded only before their first episode, because a seed restarts the order of instances.
    """

    _begun: VecEnvObs | None = None  # the first observations, if no step has followed
    _started = False

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds the environments, unless they have begun."""
        return [None] * self.num_envs if self._started else self.venv.seed(seed)

    def reset(self) -> VecEnvObs:
        """The first observation of the episodes that have just begun, or else of new ones."""
        begun = self.venv.reset() if self._begun is None else self._begun
        self._begun, self._started = begun, True
        return begun

    def step_wait(self) -> VecEnvStepReturn:
        """The result of the environments' step."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._begun = observations if dones.all() else None
        return observations, rewards, dones, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environments."""
        return self.venv.get_attr(attr_name, indices)
