"""Rewards of a cohort relative to each other: shared effects, such as an easy batch, cancel."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class LeaveOneOutBaseline(VecEnvWrapper):
    """Each student's reward minus the mean reward of the others in the same decision.

        r_i <- r_i - 1/(N - 1) sum_{j != i} r_j

    The students of a cohort are at the same step and learn from the same batches. So the others' rewards are a baseline
    that includes everything except the student's own choices. The baseline does not depend on the student's action, so
    the learning goal stays the same, with less noise. Returns in `info["episode"]` are not changed.

    References:
        Kool, van Hoof, Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, ICLR 2019 workshop,
        https://openreview.net/forum?id=r1lgTGL5DE
    """

    def reset(self) -> VecEnvObs:
        """Resets the environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """The result of the environments' step, with relative rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, relative(rewards), dones, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environments."""
        return self.venv.get_attr(attr_name, indices)


def relative(rewards: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[N], each minus the mean of the others; unchanged if there are no others."""
    n = len(rewards)
    return rewards if n < 2 else ((n * rewards - rewards.sum()) / (n - 1)).astype(rewards.dtype)
