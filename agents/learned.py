"""A learned policy that can act: a network and a random generator, without training code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.agents.card import Card
from ackd.agents.policy import Observations, State
from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS

__all__ = ["DTYPES", "Actor", "Card", "LearnedPolicy"]

DTYPES: Mapping[str, type[np.generic]] = {
    "subset": np.int8,
    "weights": np.float32,
    "type-subset": np.int8,
    "type-shares": np.float32,
}


class Actor(Protocol):
    """An `nn.Module` that decides and can be saved: all its state is float32 and in `state_dict`."""

    @property
    def kind(self) -> str:
        """Its name in `ackd.agents.store.KINDS`; may be a class attribute."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """The arguments that rebuild it."""
        ...

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Actions [B, K].

        Args:
            batch: float32 globals [B, G] and knowledge [B, K * F], mask [B, K], and the other parts of the observation.
            deterministic: give the likeliest action instead of a draw.
            generator: generator of the draws.
        """
        ...

    def flops(self, types: int) -> float:
        """Floating-point operations of a decision over `types` types."""
        ...

    def eval(self) -> Self: ...  # noqa: D102  # this and the next methods are nn.Module's

    def requires_grad_(self, requires_grad: bool = True) -> Self: ...  # noqa: D102

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def load_state_dict(  # noqa: D102
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any: ...


class LearnedPolicy:
    """A trained network with stable-baselines3's `predict`.

    Args:
        network: the network with its weights.
        card: description of the policy.
        seed: seed of its own generator of draws.
    """

    def __init__(self, network: Actor, card: Card, *, seed: int = 0) -> None:
        self.network, self.card = network.eval().requires_grad_(False), card
        self._generator = torch.Generator().manual_seed(seed)

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Actions [K_max] or [n, K_max], int8 bits or float32 weights; a masked type is never chosen.

        Raises:
            InputError: if the sizes of the observation or of the action do not fit the policy.
        """
        mask = np.asarray(observation["mask"])
        rows = mask.reshape(-1, mask.shape[-1])
        sizes = {"globals": len(GLOBALS), "knowledge": rows.shape[1] * len(FEATURES)}
        batch = batch_of(observation)
        for name, size in sizes.items():
            if batch[name].shape[1] != size:
                raise InputError(
                    f"the observation's {name} has the shape {list(np.shape(observation[name]))}, "
                    f"the policy reads {size} numbers for each of {len(rows)}"
                )
        with torch.no_grad():
            actions = self.network.act(batch, deterministic, self._generator)
        if actions.shape != rows.shape:
            raise InputError(f"the policy decides over {actions.shape[-1]} entries, and here are {rows.shape[1]}")
        chosen = np.where(rows != 0, actions.numpy(), 0)
        return chosen.astype(DTYPES[self.card.choice]).reshape(mask.shape), state

    def flops(self, types: int) -> float:
        """Floating-point operations of a decision over `types` types."""
        return self.network.flops(types)


def batch_of(observation: Observations) -> dict[str, Tensor]:
    """The observation of one or n environments as tensors [n, ...]: the mask unchanged, the rest float32.

    Raises:
        InputError: if a part has another number of rows than the mask.
    """
    mask = np.asarray(observation["mask"])
    rows = mask.reshape(-1, mask.shape[-1])
    batch = {"mask": torch.as_tensor(rows)}
    for name, value in observation.items():
        array = np.asarray(value, dtype=np.float32)
        if array.size % len(rows):
            raise InputError(
                f"the observation's {name} has the shape {list(array.shape)}, which is not {len(rows)} rows as its mask"
            )
        batch.setdefault(name, torch.as_tensor(array.reshape(len(rows), -1)))
    return batch
