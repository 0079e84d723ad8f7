"""A replay buffer of whole observations for returns over several decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class ReturnReplay(DictReplayBuffer):
    """Transitions over `n_steps` decisions, or up to the end of the episode or of the stored decisions.

        r = sum over i < n of gamma^i r_{t+i}    s' = s_{t+n}    discount = gamma^n

    stable-baselines3 has this for plain observations only. Observations show the effect of a decision only relative to
    the losses' first values, so values of one decision later contain too little of it.

    Args:
        *args: as for `DictReplayBuffer`.
        n_steps: maximum number of decisions in a return.
        gamma: discount of each decision.
        **kwargs: as for `DictReplayBuffer`.

    References:
        Sutton, Learning to Predict by the Methods of Temporal Differences, Machine Learning 1988,
        https://doi.org/10.1007/BF00115009
    """

    def __init__(self, *args: Any, n_steps: int = 5, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_steps, self.gamma = n_steps, gamma

    def _get_samples(  # type: ignore[override]  # as stable-baselines3's own
        self, batch_inds: NDArray[Any], env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        steps, size = np.arange(self.n_steps), len(batch_inds)
        columns = np.random.randint(0, self.n_envs, size)  # noqa: NPY002 - what stable-baselines3 seeds
        rows = (batch_inds[:, None] + steps) % self.buffer_size
        newest = (self.pos - 1) % self.buffer_size
        stops = (self.dones[rows, columns[:, None]] > 0) | (rows == newest)
        last = np.where(stops.any(1), stops.argmax(1), self.n_steps - 1)
        ends = rows[np.arange(size), last]
        discounts = np.where(steps <= last[:, None], self.gamma**steps, 0.0)
        returns = (self.rewards[rows, columns[:, None]] * discounts).sum(1)
        return DictReplayBufferSamples(
            observations={key: self.to_torch(part[batch_inds, columns]) for key, part in self.observations.items()},
            actions=self.to_torch(self.actions[batch_inds, columns]),
            next_observations={key: self.to_torch(part[ends, columns]) for key, part in self.next_observations.items()},
            dones=self.to_torch(self.dones[ends, columns].reshape(-1, 1)),
            rewards=self.to_torch(returns.reshape(-1, 1).astype(np.float32)),
            discounts=self.to_torch((self.gamma ** (last + 1.0)).reshape(-1, 1).astype(np.float32)),
        )
