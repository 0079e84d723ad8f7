"""Rewards of a cohort relative to each other: what all students share, as luck with a batch, cancels."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class LeaveOneOutBaseline(VecEnvWrapper):
    """Each student's reward less the mean of the others' in the same decision.

        r_i <- r_i - 1/(N - 1) sum_{j != i} r_j

    The students of a cohort stand at the same step and learn from the same batches, so the others' rewards are a
    baseline that knows everything about the moment but the student's own choices; it does not depend on its action, so
    what is learned stays the same, with less noise. Returns in `info["episode"]` are left as they were.

    References:
        Kool, van Hoof, Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, ICLR 2019 workshop,
        https://openreview.net/forum?id=r1lgTGL5DE
    """

    def reset(self) -> VecEnvObs:
        """As the environment does."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """The environment's answer, with relative rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, relative(rewards), dones, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The environment's."""
        return self.venv.get_attr(attr_name, indices)


def relative(rewards: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[N], each less the mean of the others; as it is where there are no others."""
    n = len(rewards)
    return rewards if n < 2 else ((n * rewards - rewards.sum()) / (n - 1)).astype(rewards.dtype)
