"""The order of training examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class LengthGroupedSampler:
    """Training batches without end: each pass over the data in a new order from the run's stream.

    Examples of similar length come together, so that little is padded: a pass is drawn at random, sorted by length
    within pools, cut into batches, and these are shuffled. A pool holds `POOL` batches, but at most a quarter of the
    pass, so that a small task is not sorted as a whole. What is left over begins the next pass.

    Args:
        lengths: tokens of each example.
        size: examples in a batch.
        generator: what the order is drawn from.
    """

    POOL = 8

    def __init__(self, lengths: NDArray[np.int64], size: int, generator: np.random.Generator) -> None:
        self.lengths, self.size, self.generator = lengths, size, generator
        self._batches: NDArray[np.int64] = np.empty((0, size), np.int64)
        self._left: NDArray[np.int64] = np.empty(0, np.int64)

    def next(self) -> NDArray[np.int64]:
        """The places of the next batch's examples."""
        if not len(self._batches):
            self._draw()
        batch: NDArray[np.int64] = self._batches[0]
        self._batches = self._batches[1:]
        return batch

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
        """What is left of the present pass; the generator's state belongs to its stream."""
        return {"batches": torch.from_numpy(self._batches.copy()), "left": torch.from_numpy(self._left.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: if it is of other examples or batches.
        """
        batches, left = self.indices(state["batches"], (-1, self.size)), self.indices(state["left"])
        self._batches, self._left = batches.copy(), left.copy()

    def indices(self, saved: torch.Tensor, shape: tuple[int, ...] = (-1,)) -> NDArray[np.int64]:
        """Places of examples, read back.

        Raises:
            ValueError: if they are of other examples or batches.
        """
        if saved.dtype != torch.int64 or saved.reshape(shape).shape != saved.shape:
            raise ValueError("the order of the examples is that of other batches")
        if saved.numel() and not 0 <= int(saved.min()) <= int(saved.max()) < len(self.lengths):
            raise ValueError("the order of the examples is that of other data")
        indices: NDArray[np.int64] = saved.numpy()
        return indices
