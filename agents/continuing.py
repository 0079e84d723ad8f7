"""Several learners one after the other in the same environments, without passing over students in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class Continuing(VecEnvWrapper):
    """Environments that go on with the episodes that have just begun, where they are asked to begin others.

    Environments begin an episode by themselves when one ends, so whoever resets them next would pass over a student
    each. They are seeded before their first episode alone: seeds begin the order of instances anew.
    """

    _begun: VecEnvObs | None = None  # what was observed first, where no step has been taken since
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
        """The environment's answer."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._begun = observations if dones.all() else None
        return observations, rewards, dones, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The environment's."""
        return self.venv.get_attr(attr_name, indices)
