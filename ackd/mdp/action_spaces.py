"""Action spaces, and the conversion between actions and selections.

An action has an entry for each term of the loss that can be weighted: the labels first, then the knowledge types.
Surplus entries have no term and are masked.
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
DOUBLINGS = 3  # weights lie between 2^-3 and 2^3
LEAST = 1 / 12  # smaller entries are weight 0; so the smallest positive weight is 2^-2.5
LEVELS = (0.0, 0.25, 1.0, 4.0)
STEP = 1 / 256  # weights are rounded on the log scale, so that float32 rounding of entries does not change them
LEAST_SHARE = 0.05


def weights_of(entries: ArrayLike) -> NDArray[np.float64]:
    """Converts entries u of `Weights` to weights: 2^(6u - 3), and 0 for u below 1/12.

    NaN counts as 0; values outside [0, 1] are clipped.
    """
    clipped = np.clip(np.nan_to_num(np.asarray(entries, np.float64)), 0.0, 1.0)
    logs = np.round((2 * DOUBLINGS * clipped - DOUBLINGS) / STEP) * STEP
    return np.where(clipped < LEAST - 1e-6, 0.0, np.exp2(logs))


def entries_of(weights: ArrayLike) -> NDArray[np.float32]:
    """Converts weights w to entries of `Weights`: (log2 w + 3) / 6 within [0, 1], and 0 for w below 2^-2.5."""
    given = np.asarray(weights, np.float64)
    logs = np.log2(np.maximum(given, 2.0**-DOUBLINGS))
    entries = np.clip((logs + DOUBLINGS) / (2 * DOUBLINGS), 0.0, 1.0)
    return np.where(entries < LEAST - 1e-6, 0.0, entries).astype(np.float32)


def selected(names: Sequence[str], weights: Sequence[float] | NDArray[np.float64]) -> Selection:
    """The selection with these weights; labels with weight 1 if all are 0; surplus weights are ignored."""
    given = {name: float(weight) for name, weight in zip(names, weights, strict=False)}
    labels = given.pop(LABELS, 1.0)
    chosen = {name: weight for name, weight in given.items() if weight > 0}
    return Selection(chosen, labels if labels or chosen else 1.0)


class Choice(Protocol):
    """An action space, and the conversion between its actions and selections."""

    @property
    def names(self) -> Sequence[str]:
        """The term of each entry; empty if an action is not a row of entries."""
        ...

    @property
    def space(self) -> spaces.Space[Any]:
        """The action space."""
        ...

    @property
    def mask(self) -> Any:
        """The free parts of an action, in the format of `sample(mask)` of Gymnasium's spaces."""
        ...

    def selection(self, action: Action) -> Selection:
        """The selection of an action; entries without a term are ignored."""
        ...

    def action(self, selection: Selection) -> Action:
        """The action whose selection equals this one or is nearest to it."""
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
        """[K_max], 2 for entries with a term, which are free, and 0 for the others."""
        return _free(self.names, self.k_max)

    def selection(self, action: Action) -> Selection:
        """The terms whose bit is set, each with weight 1."""
        return selected(self.names, (np.asarray(action) != 0).astype(np.float64))

    def action(self, selection: Selection) -> Action:
        """[K_max] int8."""
        return _padded(_weights(self.names, selection) > 0, self.k_max).astype(np.int8)


@dataclass(frozen=True)
class Levels:
    """`MultiDiscrete`: one of several fixed weights for each term; the first weight is 0.

    Raises:
        InputError: if the levels do not increase from 0, or are not finite.
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
        """K_max rows of [levels]: all 1 for entries with a term; only the first is 1 for the others."""
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
    """`Box(0, 1)`: a log-scale weight for each term: 1/2 means 1, 1 means 8, below 1/12 means 0."""

    names: Sequence[str]
    k_max: int

    @property
    def space(self) -> spaces.Box:
        """The action space."""
        return spaces.Box(0.0, 1.0, (self.k_max,), np.float32)

    @property
    def mask(self) -> NDArray[np.int8]:
        """[K_max], 2 for entries with a term, which are free, and 0 for the others."""
        return _free(self.names, self.k_max)

    def selection(self, action: Action) -> Selection:
        """Each term with its weight from `weights_of`."""
        return selected(self.names, weights_of(action))

    def action(self, selection: Selection) -> Action:
        """[K_max] float32."""
        return _padded(entries_of(_weights(self.names, selection)), self.k_max)


@dataclass(frozen=True)
class Shares(Weights):
    """`Box(0, 1)`: the entries are the weights; entries below `LEAST_SHARE` become 0, which saves FLOPs."""

    def selection(self, action: Action) -> Selection:
        """Each term with its weight; NaN counts as 0, and values outside [0, 1] are clipped."""
        weights = np.clip(np.nan_to_num(np.asarray(action, np.float64)), 0.0, 1.0)
        return selected(self.names, np.where(weights >= LEAST_SHARE, weights, 0.0))

    def action(self, selection: Selection) -> Action:
        """[K_max] float32."""
        return _padded(_weights(self.names, selection), self.k_max)


@dataclass(frozen=True)
class Stages:
    """`Discrete`: one of several fixed selections, such as the stages of a published method."""

    selections: Sequence[Selection]
    names: Sequence[str] = ()

    @property
    def space(self) -> spaces.Discrete:
        """The action space."""
        return spaces.Discrete(len(self.selections))

    @property
    def mask(self) -> NDArray[np.int8]:
        """[stages], all 1: every stage is allowed after every other."""
        return np.ones(len(self.selections), dtype=np.int8)

    def selection(self, action: Action) -> Selection:
        """The selection of the stage."""
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


# Spaces named `type-...` leave the labels at weight 1, as in methods that do not weight the labels.
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
    """The action space of a name over the given terms; a `Choice` is returned unchanged.

    Args:
        choice: subset | levels | weights, over all terms; type-subset | type-shares, over all but the labels.
        terms: the labels, if they can be weighted, and the knowledge types.
        k_max: entries of the action.
        levels: weights of the choice `levels`; `LEVELS` if None.

    Raises:
        InputError: if the name is unknown, `k_max` is less than the number of terms, or the levels are invalid.
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
