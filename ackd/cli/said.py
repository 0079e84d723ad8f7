"""Texts that several commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ackd.config.options import STEPS

MANY = 3  # most names in a sentence


class Trains(Protocol):
    """Options with the length of a training."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps."""
        ...

    @property
    def epochs(self) -> float | None:
        """Passes over the training data, instead of steps."""
        ...


def nothing_left(output: str) -> None:
    """Prints that a run is finished."""
    print(f"the run in {output} is finished: nothing is left to resume")


def few(names: Sequence[str | None], otherwise: str = "") -> str:
    """Joins names for a sentence; only the first few of a long list are named.

    Example:
        >>> few(["sst2", "mrpc", "rte", "cola"])
        'sst2, mrpc, rte and 1 more'
    """
    known = [str(name) for name in names if name]
    more = f" and {len(known) - MANY} more" if len(known) > MANY else ""
    return f"{', '.join(known[:MANY])}{more}" or otherwise


def long(config: Trains) -> str:
    """The length of each training, as text."""
    if config.epochs is not None:
        return f"{config.epochs:g} epoch{'s' * (config.epochs != 1)}"
    steps = STEPS if config.steps is None else config.steps
    return f"{steps:,} step{'s' * (steps != 1)}"
