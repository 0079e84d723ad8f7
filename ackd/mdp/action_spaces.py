"""Action spaces and what their actions select.

An action has an entry for each term of the loss that can be weighted: the labels first, then the knowledge types.
Entries beyond them stand for nothing and are masked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ackd.errors import InputError, unknown
from ackd.types import LABELS, Selection

Action = NDArray[Any]
DOUBLINGS = 3  # weights reach from 2^-3 to 2^3
LEAST = 1 / 12  # an entry below it is weight 0; 2^-2.5 is the least weight that is transferred
LEVELS = (0.0, 0.25, 1.0, 4.0)
STEP = 1 / 256  # of the logarithm: what float32 makes of an entry does not change its weight
LEAST_SHARE = 0.05


def weights_of(entries: ArrayLike) -> NDArray[np.float64]:
    """The weights that entries of `Weights` stand for: 2^(6u - 3), and 0 for u below 1/12.

    NaN counts as 0, and what lies outside [0, 1] as the nearer end.
    """
    clipped = np.clip(np.nan_to_num(np.asarray(entries, np.float64)), 0.0, 1.0)
    logs = np.round((2 * DOUBLINGS * clipped - DOUBLINGS) / STEP) * STEP
    return np.where(clipped < LEAST - 1e-6, 0.0, np.exp2(logs))


def entries_of(weights: ArrayLike) -> NDArray[np.float32]:
    """The entries of `Weights` that stand for weights: (log2 w + 3) / 6 within [0, 1], and 0 below 2^-2.5."""
    given = np.asarray(weights, np.float64)
    logs = np.log2(np.maximum(given, 2.0**-DOUBLINGS))
    entries = np.clip((logs + DOUBLINGS) / (2 * DOUBLINGS), 0.0, 1.0)
    return np.where(entries < LEAST - 1e-6, 0.0, entries).astype(np.float32)


def selected(names: Sequence[str], weights: Sequence[float] | NDArray[np.float64]) -> Selection:
    """What weights of terms select; labels alone, with weight 1, if all are 0; surplus weights stand for nothing."""
    given = {name: float(weight) for name, weight in zip(names, weights, strict=False)}
    labels = given.pop(LABELS, 1.0)
    chosen = {name: weight for name, weight in given.items() if weight > 0}
    return Selection(chosen, labels if labels or chosen else 1.0)


class Choice(Protocol):
    """An action space, and the way between its actions and selections."""

    @property
    def names(self) -> Sequence[str]:
        """The terms that the entries stand for; empty where an action is no row of entries."""
        ...

    @property
    def space(self) -> spaces.Space[Any]:
        """The action space."""
        ...

    @property
    def mask(self) -> Any:
        """Which parts of an action are free, as Gymnasium's spaces take it to sample from."""
        ...

    def selection(self, action: Action) -> Selection:
        """What the action selects; entries that stand for no term are dropped."""
        ...

    def action(self, selection: Selection) -> Action:
        """An action that selects just this, or the nearest to it that there is."""
        ...


@dataclass(frozen=True)
class Subset:
    """`MultiBinary(K_max)`: a bit for each term; all zero means labels only."""

    names: Sequence[str]
    k_max: int

    @property
    def space(self) -> spaces.MultiBinary:
        """The action space."""
        return spaces.MultiBinary(self.k_max)

    @property
    def mask(self) -> NDArray[np.int8]:
        """[K_max], 0 where the entry stands for nothing and 2 where it is free."""
        return _free(self.names, self.k_max)

    def selection(self, action: Action) -> Selection:
        """The terms whose bit is set, each with weight 1."""
        return selected(self.names, (np.asarray(action) != 0).astype(np.float64))

    def action(self, selection: Selection) -> Action:
        """[K_max] int8."""
        return _padded(_weights(self.names, selection) > 0, self.k_max).astype(np.int8)


@dataclass(frozen=True)
class Levels:
    """`MultiDiscrete`: one of some fixed weights for each term, the first of them 0.

    Raises:
        InputError: if the levels do not rise from 0, or are not finite.
    """

    names: Sequence[str]
    k_max: int
    levels: Sequence[float] = LEVELS

    def __post_init__(self) -> None:
        rise = all(low < high for low, high in zip(self.levels, self.levels[1:], strict=False))
        if len(self.levels) < 2 or self.levels[0] != 0 or not rise or not math.isfinite(self.levels[-1]):
            raise InputError(
                f"the levels are {', '.join(f'{level:g}' for level in self.levels)}: give at least two finite weights "
                "that rise, and 0 as the first, such as 0 0.25 1 4"
            )

    @property
    def space(self) -> spaces.MultiDiscrete:
        """The action space."""
        return spaces.MultiDiscrete([len(self.levels)] * self.k_max)

    @property
    def mask(self) -> tuple[NDArray[np.int8], ...]:
        """K_max rows of [levels]: all 1, and only the first where the entry stands for nothing."""
        there = _free(self.names, self.k_max) > 0
        first = np.arange(len(self.levels)) == 0
        return tuple((first | free).astype(np.int8) for free in there)

    def selection(self, action: Action) -> Selection:
        """Each term with the weight of its level."""
        return selected(self.names, np.asarray(self.levels)[np.asarray(action, np.int64)])

    def action(self, selection: Selection) -> Action:
        """[K_max] int64, the level nearest to each weight."""
        distances = np.abs(_weights(self.names, selection)[:, None] - np.asarray(self.levels))
        return _padded(distances.argmin(1), self.k_max).astype(np.int64)


@dataclass(frozen=True)
class Weights:
    """`Box(0, 1)`: a weight for each term, on a logarithmic scale: 1/2 is 1, 1 is 8, and below 1/12 it is 0."""

    names: Sequence[str]
    k_max: int

    @property
    def space(self) -> spaces.Box:
        """The action space."""
        return spaces.Box(0.0, 1.0, (self.k_max,), np.float32)

    @property
    def mask(self) -> NDArray[np.int8]:
        """[K_max], 0 where the entry stands for nothing and 2 where it is free."""
        return _free(self.names, self.k_max)

    def selection(self, action: Action) -> Selection:
        """Each term with the weight that `weights_of` reads."""
        return selected(self.names, weights_of(action))

    def action(self, selection: Selection) -> Action:
        """[K_max] float32."""
        return _padded(entries_of(_weights(self.names, selection)), self.k_max)


@dataclass(frozen=True)
class Shares(Weights):
    """`Box(0, 1)`: the entries are the weights. What is hardly wanted, below `LEAST_SHARE`, is not paid for."""

    def selection(self, action: Action) -> Selection:
        """Each term with its weight; NaN counts as 0, and what lies outside [0, 1] as the nearer end."""
        weights = np.clip(np.nan_to_num(np.asarray(action, np.float64)), 0.0, 1.0)
        return selected(self.names, np.where(weights >= LEAST_SHARE, weights, 0.0))

    def action(self, selection: Selection) -> Action:
        """[K_max] float32."""
        return _padded(_weights(self.names, selection), self.k_max)


@dataclass(frozen=True)
class Stages:
    """`Discrete`: one of some fixed selections, such as the stages of a published method."""

    selections: Sequence[Selection]
    names: Sequence[str] = ()

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


def _weights(names: Sequence[str], selection: Selection) -> NDArray[np.float64]:
    """[terms], the weights of a selection in the order of the entries."""
    return np.array([{LABELS: selection.labels, **selection.weights}.get(name, 0.0) for name in names], np.float64)


def _free(names: Sequence[str], k_max: int) -> NDArray[np.int8]:
    return _padded([2.0] * len(names), k_max).astype(np.int8)


def _padded(values: Sequence[float] | NDArray[Any], length: int) -> NDArray[np.float32]:
    row = np.zeros(length, dtype=np.float32)
    row[: len(values)] = values
    return row


# Those of the types alone leave the labels at weight 1, as methods have it that do not weigh them.
CHOICES: Mapping[str, type[Subset | Levels | Weights | Shares]] = {
    "subset": Subset,
    "levels": Levels,
    "weights": Weights,
    "type-subset": Subset,
    "type-shares": Shares,
}


def make_choice(
    choice: str | Choice, terms: Sequence[str], k_max: int, levels: Sequence[float] | None = None
) -> Choice:
    """The action space of that name over some terms; one that is given as such is taken as it is.

    Args:
        choice: subset | levels | weights, over all terms; type-subset | type-shares, over all but the labels.
        terms: the labels, where they can be weighted, and the knowledge types.
        k_max: entries of the action.
        levels: of the choice `levels`; `LEVELS` if None.

    Raises:
        InputError: if there is none, `k_max` holds fewer entries than there are terms, or the levels cannot be.
    """
    if k_max < len(terms):
        raise InputError(f"k_max is {k_max}, but {len(terms)} terms can be weighted ({', '.join(terms)}): raise it")
    if not isinstance(choice, str):
        return choice
    if choice not in CHOICES:
        raise unknown("action space", choice, CHOICES)
    if levels is not None and choice != "levels":
        raise InputError(f"only the action space levels has levels, not {choice}: leave them away")
    names = tuple(name for name in terms if name != LABELS or not choice.startswith("type-"))
    made = CHOICES[choice](names, k_max)
    return replace(made, levels=levels) if levels is not None and isinstance(made, Levels) else made
