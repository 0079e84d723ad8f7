"""A learned policy that acts: a network and a generator, without any training machinery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.agents.policy import Observations, State
from ackd.agents.set_policy import SetNetwork, likeliest, sampled
from ackd.errors import InputError


@dataclass(frozen=True)
class Card:
    """Where a policy comes from, and for what it was made.

    Args:
        knowledge: names of the knowledge types of its training, in the order of the action's bits.
        k_max: bits of the action it is meant for; the network itself takes any number.
        width: hidden width of the network.
        algorithm: what trained it, as in `a2c`.
        instances: what it was trained on.
        metrics: how well it did.
        versions: of the packages that saved it.
    """

    knowledge: tuple[str, ...]
    k_max: int
    width: int
    algorithm: str
    instances: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, Any]
    versions: Mapping[str, str]


class LearnedPolicy:
    """A trained `SetNetwork` with stable-baselines3's `predict`, for any number of knowledge types.

    Args:
        network: the weights.
        card: where they come from.
        seed: of its own generator, from which the draws come.
    """

    def __init__(self, network: SetNetwork, card: Card, *, seed: int = 0) -> None:
        self.network, self.card = network.eval().requires_grad_(False), card
        self._generator = torch.Generator().manual_seed(seed)

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int8], State | None]:
        """Actions [K_max] or [n, K_max], int8: the likeliest or a draw; a masked type is never chosen.

        Raises:
            InputError: if the observation has other sizes than the network reads.
        """
        mask = np.asarray(observation["mask"])
        rows = mask.reshape(-1, mask.shape[-1])
        batch = {
            "globals": self._batch(observation["globals"], len(rows), self.network.overview, "globals"),
            "knowledge": self._batch(
                observation["knowledge"], len(rows), rows.shape[1] * self.network.features, "knowledge"
            ),
            "mask": torch.as_tensor(rows),
        }
        with torch.no_grad():
            logits, _, available = self.network.read(batch)
            bits = likeliest(logits, available) if deterministic else sampled(logits, available, self._generator)
        return bits.numpy().astype(np.int8).reshape(mask.shape), state

    def _batch(self, values: NDArray[Any], rows: int, size: int, name: str) -> torch.Tensor:
        array = np.asarray(values, dtype=np.float32)
        if array.size != rows * size:
            raise InputError(
                f"the observation's {name} has the shape {list(array.shape)}, "
                f"the policy reads {size} numbers for each of {rows}"
            )
        return torch.as_tensor(array.reshape(rows, size))
