"""Action spaces and what their actions select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ackd.errors import InputError, unknown
from ackd.types import Selection

Action = NDArray[Any]
LEAST = 0.05  # weight with which a type is transferred at all


class Choice(Protocol):
    """An action space, and the way between its actions and selections."""

    @property
    def space(self) -> spaces.Space[Any]:
        """The action space."""
        ...

    @property
    def mask(self) -> NDArray[np.int8]:
        """Which parts of an action are free, as Gymnasium's spaces take it to sample from."""
        ...

    def selection(self, action: Action) -> Selection:
        """What the action selects; entries that stand for no type are dropped."""
        ...

    def action(self, selection: Selection) -> Action:
        """An action that selects just this."""
        ...


@dataclass(frozen=True)
class Subset:
    """`MultiBinary(K_max)`: a bit for each knowledge type; all zero means labels only."""

    names: Sequence[str]
    k_max: int

    @property
    def space(self) -> spaces.MultiBinary:
        """The action space."""
        return spaces.MultiBinary(self.k_max)

    @property
    def mask(self) -> NDArray[np.int8]:
        """[K_max], 0 where the entry stands for nothing and 2 where it is free."""
        return _padded([2.0] * len(self.names), self.k_max).astype(np.int8)

    def selection(self, action: Action) -> Selection:
        """The types whose bit is set, each with weight 1."""
        return Selection.of(*(name for name, bit in zip(self.names, action, strict=False) if bit))

    def action(self, selection: Selection) -> Action:
        """[K_max] int8."""
        return _padded([float(name in selection.chosen) for name in self.names], self.k_max).astype(np.int8)


@dataclass(frozen=True)
class Weights:
    """`Box(0, 1)`: a weight for each knowledge type."""

    names: Sequence[str]
    k_max: int

    @property
    def space(self) -> spaces.Box:
        """The action space."""
        return spaces.Box(0.0, 1.0, (self.k_max,), np.float32)

    @property
    def mask(self) -> NDArray[np.int8]:
        """[K_max], 0 where the entry stands for nothing and 2 where it is free."""
        return _padded([2.0] * len(self.names), self.k_max).astype(np.int8)

    def selection(self, action: Action) -> Selection:
        """Each type with its weight; NaN counts as 0, and what lies outside [0, 1] as the nearer end.

        A weight below `LEAST` is none: a network's sigmoid never says 0, and what is hardly wanted is not paid for.
        """
        weights = np.clip(np.nan_to_num(action.astype(np.float64)), 0.0, 1.0)
        return Selection(
            {name: float(weight) for name, weight in zip(self.names, weights, strict=False) if weight >= LEAST}
        )

    def action(self, selection: Selection) -> Action:
        """[K_max] float32."""
        return _padded([selection.weights.get(name, 0.0) for name in self.names], self.k_max)


@dataclass(frozen=True)
class Stages:
    """`Discrete`: one of some fixed selections, such as the stages of a published method."""

    selections: Sequence[Selection]

    @property
    def space(self) -> spaces.Discrete:
        """The action space."""
        return spaces.Discrete(len(self.selections))

    @property
    def mask(self) -> NDArray[np.int8]:
        """[stages], all 1: any may follow any."""
        return np.ones(len(self.selections), dtype=np.int8)

    def selection(self, action: Action) -> Selection:
        """The stage's own."""
        return self.selections[int(action)]

    def action(self, selection: Selection) -> Action:
        """0-d int64."""
        return np.array(list(self.selections).index(selection))


def _padded(values: Sequence[float], length: int) -> NDArray[np.float32]:
    row = np.zeros(length, dtype=np.float32)
    row[: len(values)] = values
    return row


CHOICES: dict[str, type[Subset | Weights]] = {"subset": Subset, "weights": Weights}


def make_choice(choice: str | Choice, knowledge: Sequence[str], k_max: int) -> Choice:
    """The action space of that name over some knowledge types; one that is given as such is taken as it is.

    Raises:
        InputError: if there is none, or `k_max` holds fewer entries than there are types.
    """
    if k_max < len(knowledge):
        raise InputError(f"k_max is {k_max}, but there are {len(knowledge)} knowledge types: raise it")
    if not isinstance(choice, str):
        return choice
    if choice not in CHOICES:
        raise unknown("action space", choice, CHOICES)
    return CHOICES[choice](knowledge, k_max)
