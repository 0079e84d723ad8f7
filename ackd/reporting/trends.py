"""Trends over the episodes of a run and over a student's training, computed from the decisions."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ackd.runs.log import Decision

Array = NDArray[np.float64]
MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Episode:
    """One student's training: its decisions in order, and whether it is complete."""

    number: int
    seed: int
    decisions: Sequence[Decision]
    complete: bool

    @property
    def returned(self) -> float:
        """The sum of the rewards."""
        return math.fsum(decision.reward for decision in self.decisions)

    @property
    def diverged(self) -> bool:
        """Whether the training diverged."""
        return any(decision.error for decision in self.decisions)


def episodes_of(decisions: Sequence[Decision], steps: int) -> list[Episode]:
    """The episodes in the order of their numbers; `steps` is the length of a whole training."""
    groups: dict[int, list[Decision]] = {}
    for decision in decisions:  # rows of several students may alternate
        groups.setdefault(decision.episode, []).append(decision)
    return [
        Episode(number, those[0].seed, those, those[-1].steps_done >= steps or any(d.error for d in those))
        for number, those in sorted(groups.items())
    ]


def aligned(episodes: Sequence[Episode]) -> list[Episode]:
    """Splits decisions so that all episodes have rows at the same steps and can be compared by index.

    Episodes differ if a budget has shortened some of their phases. Each part of a split decision keeps its weights and
    losses; the last part has its reward and measurements.
    """
    ends = sorted({decision.steps_done for episode in episodes for decision in episode.decisions})
    if len(ends) * len(episodes) > MOST_ROWS:
        return list(episodes)
    return [replace(episode, decisions=_split(episode.decisions, ends)) for episode in episodes]


def _split(decisions: Sequence[Decision], ends: Sequence[int]) -> list[Decision]:
    parts, begin = [], 0
    for decision in decisions:
        within = ends[bisect_right(ends, begin) : bisect_left(ends, decision.steps_done)]
        nothing = replace(decision, reward=0.0, reward_loss=None, reward_score=None, error="")
        parts += [*(replace(nothing, steps_done=end) for end in within), decision]
        begin = decision.steps_done
    return parts


@dataclass(frozen=True)
class Band:
    """A curve with the band around it."""

    x: Array
    middle: Array
    low: Array
    high: Array


def running(values: Sequence[float], window: int) -> Band:
    """The running mean of the last `window` values with quartiles; fewer values at the beginning."""
    windows = [np.asarray(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]
    low, high = np.array([np.quantile(those, (0.25, 0.75)) for those in windows]).reshape(-1, 2).T
    return Band(np.arange(len(values), dtype=float), np.array([those.mean() for those in windows]), low, high)


def edges(episodes: Sequence[Episode], steps: int) -> Array:
    """The start of each decision and the end of the last, in percent of a training: [decisions + 1]."""
    longest = max(episodes, key=lambda episode: len(episode.decisions), default=None)
    done = [decision.steps_done for decision in longest.decisions] if longest else []
    return 100 * np.array([0, *done], dtype=float) / max(steps, 1)


def by_decision(episodes: Sequence[Episode], value: Callable[[Decision], float | None]) -> Array:
    """[episodes, decisions], the results of `value`; NaN for a missing decision or a value that is not finite."""
    longest = max((len(episode.decisions) for episode in episodes), default=0)
    table = np.full((len(episodes), longest), np.nan)
    for row, episode in zip(table, episodes, strict=True):
        for place, decision in enumerate(episode.decisions):
            read = value(decision)
            if read is not None and math.isfinite(read):
                row[place] = read
    return table


def column_means(table: Array) -> Array:
    """The mean of the finite values of each column; NaN for a column without any."""
    there = np.isfinite(table)
    counts = there.sum(0)
    sums = np.where(there, table, 0.0).sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def mean_weights(episodes: Sequence[Episode], types: Sequence[str]) -> Array:
    """[types, phases], the mean weight of each type or of the labels in each phase."""

    def weights(name: str) -> Array:
        return column_means(by_decision(episodes, lambda decision: decision.weights.get(name, 0.0)))

    return np.array([weights(name) for name in types])


def relative_losses(episodes: Sequence[Episode], types: Sequence[str]) -> Mapping[str, tuple[float, Array]]:
    """For the labels and each type with losses: the first mean loss, and the mean loss of each decision divided by it.

    A mean is over the episodes that computed the loss in that decision. Values of 0 or less are NaN, because the scale
    is logarithmic.
    """

    def losses(name: str) -> Array:
        return column_means(by_decision(episodes, lambda decision: decision.losses.get(name)))

    curves = {
        "labels": column_means(by_decision(episodes, lambda decision: decision.label_loss)),
        **{name: losses(name) for name in types},
    }
    relative = {}
    for name, curve in curves.items():
        positive = np.where(curve > 0, curve, np.nan)
        there = positive[np.isfinite(positive)]
        if len(there):
            relative[name] = (float(there[0]), positive / there[0])
    return relative


def measured(episodes: Sequence[Episode], steps: int, value: Callable[[Decision], float | None]) -> Band:
    """The mean and quartiles over episodes of a measurement after each decision, by progress in percent."""
    table = by_decision(episodes, value)
    x = edges(episodes, steps)[1:]
    there = np.isfinite(table).any(0)
    columns = [column[np.isfinite(column)] for column in table.T[there]]
    low, high = np.array([np.quantile(those, (0.25, 0.75)) for those in columns]).reshape(-1, 2).T
    return Band(x[there], np.array([those.mean() for those in columns]), low, high)


def accumulated(episode: Episode, steps: int) -> tuple[Array, Array]:
    """The return so far after each decision with a measurement on the reward split, by progress in percent."""
    sums = np.cumsum([decision.reward for decision in episode.decisions])
    there = np.array([decision.reward_loss is not None for decision in episode.decisions], dtype=bool)
    return edges([episode], steps)[1:][there], sums[there]
