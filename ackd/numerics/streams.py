"""The random streams of one run, apart from each other and from everybody else's."""

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
    """Torch draws from a stream of this seed on the CPU, and afterwards from where it was; no GPU is seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class RngStreams:
    """Student initialisation, data order and dropout, each with a generator derived from the seed.

    What one of them draws never depends on the others or on an agent, so policies are compared on the same student,
    data and dropout, and a run gives the same weights in any process. Of processes that train one student together each
    has its own dropout.

    Args:
        seed: of the run.
        device: where the dropout masks are drawn.
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
        """Torch draws from the stream of the student's initialisation, from its beginning."""
        with self._forked():
            self._seed(self._init_seed)
            yield

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Torch draws from the dropout stream, and goes on there the next time."""
        with self._forked():
            self._restore(self._dropout)
            try:
                yield
            finally:
                self._dropout = self._states()

    def state_dict(self) -> dict[str, Any]:
        """Where each stream stands."""
        return {"order": self.order.bit_generator.state, "dropout": list(self._dropout), "init": self._init_seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.order.bit_generator.state = state["order"]
        self._dropout = list(state["dropout"])
        self._init_seed = operator.index(state["init"])
        with self._forked():
            self._restore(self._dropout)  # refuses now what it would refuse later

    @contextmanager
    def _forked(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def _seed(self, seed: int) -> None:
        """As `torch.manual_seed`, but for the generators of other GPUs, which are not forked and may be an agent's."""
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
