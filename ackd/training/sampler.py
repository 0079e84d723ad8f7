"""The order of training examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class LengthGroupedSampler:
    """Endless sequence of training batches; each epoch has a new random order.

    A batch contains examples of similar length, so padding is short. An epoch is shuffled, sorted by length within
    pools, and cut into batches; then the batches are shuffled. A pool has `POOL` batches, but at most a quarter of the
    epoch, so that a small task is not sorted as a whole. Left-over examples start the next epoch.

    Args:
        lengths: tokens of each example.
        size: examples in a batch.
        generator: source of the random order.
    """

    POOL = 8

    def __init__(self, lengths: NDArray[np.int64], size: int, generator: np.random.Generator) -> None:
        self.lengths, self.size, self.generator = lengths, size, generator
        self._batches: NDArray[np.int64] = np.empty((0, size), np.int64)
        self._left: NDArray[np.int64] = np.empty(0, np.int64)

    def next(self) -> NDArray[np.int64]:
        """The indices of the next batch's examples."""
        if not len(self._batches):
            self._draw()
        batch: NDArray[np.int64] = self._batches[0]
        self._batches = self._batches[1:]
        return batch

    def ahead(self, count: int) -> list[NDArray[np.int64]]:
        """The next `count` batches, or fewer at the end of an epoch, because the next epoch is not drawn yet."""
        return list(self._batches[:count])

    def _draw(self) -> None:
        drawn = self._left
        while len(drawn) < self.size:
            drawn = np.concatenate([drawn, self.generator.permutation(len(self.lengths))])
        whole = len(drawn) - len(drawn) % self.size
        drawn, self._left = drawn[:whole], drawn[whole:]
        pool_size = self.size * max(min(self.POOL, len(self.lengths) // (4 * self.size)), 1)
        pools = (drawn[start : start + pool_size] for start in range(0, whole, pool_size))
        ordered = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        self._batches = self.generator.permutation(ordered.reshape(-1, self.size))

    def state_dict(self) -> dict[str, Any]:
        """The remaining batches of the current epoch; the generator's state is saved with its stream."""
        return {"batches": torch.from_numpy(self._batches.copy()), "left": torch.from_numpy(self._left.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`.

        Raises:
            ValueError: if it belongs to other examples or batches.
        """
        batches, left = self.indices(state["batches"], (-1, self.size)), self.indices(state["left"])
        self._batches, self._left = batches.copy(), left.copy()

    def indices(self, saved: torch.Tensor, shape: tuple[int, ...] = (-1,)) -> NDArray[np.int64]:
        """Checks and converts saved indices of examples.

        Raises:
            ValueError: if they belong to other examples or batches.
        """
        if saved.dtype != torch.int64 or saved.reshape(shape).shape != saved.shape:
            raise ValueError("the order of the examples is that of other batches")
        if saved.numel() and not 0 <= int(saved.min()) <= int(saved.max()) < len(self.lengths):
            raise ValueError("the order of the examples is that of other data")
        indices: NDArray[np.int64] = saved.numpy()
        return indices
