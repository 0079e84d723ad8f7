"""Independent random streams of a run."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def fork_rng(seed: int) -> Iterator[None]:
    """Context manager: torch's CPU generator uses `seed`, and is restored afterwards; GPUs are not seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class RngStreams:
    """Separate generators for student initialisation, data order and dropout, derived from the seed.

    The streams do not depend on each other or on an agent. So policies are compared on the same student, data and
    dropout, and a run gives the same weights in any process. In data-parallel training, each process has its own
    dropout.

    Args:
        seed: of the run.
        device: device of the dropout masks.
        rank: of the process.
    """

    def __init__(self, seed: int, device: torch.device | None = None, rank: int = 0) -> None:
        init, order, dropout = np.random.SeedSequence(seed).spawn(3)
        if rank:
            dropout = dropout.spawn(rank)[-1]
        self.device = device or torch.device("cpu")
        self.order = np.random.default_rng(order)
        self._init_seed, dropout_seed = (int(s.generate_state(1, np.uint64)[0] >> 1) for s in (init, dropout))
        with self._forked():
            self._seed(dropout_seed)
            self._dropout = self._states()

    @contextmanager
    def initialising(self) -> Iterator[None]:
        """Context manager: torch draws from the start of the initialisation stream."""
        with self._forked():
            self._seed(self._init_seed)
            yield

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Context manager: torch draws from the dropout stream, which continues at the next use."""
        with self._forked():
            self._restore(self._dropout)
            try:
                yield
            finally:
                self._dropout = self._states()

    def state_dict(self) -> dict[str, Any]:
        """The state of each stream."""
        return {"order": self.order.bit_generator.state, "dropout": list(self._dropout), "init": self._init_seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        self.order.bit_generator.state = state["order"]
        self._dropout = list(state["dropout"])
        self._init_seed = operator.index(state["init"])
        with self._forked():
            self._restore(self._dropout)  # raises errors of an invalid state now

    @contextmanager
    def _forked(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def _seed(self, seed: int) -> None:
        """Like `torch.manual_seed`, without other GPUs: their generators are not forked and may belong to an agent."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def _restore(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self.device)
