"""Statistics of scores over runs and tasks, after Agarwal et al. (NeurIPS 2021), and the value of learning.

Scores are float64 arrays [runs, tasks]: one finite score for every run on every task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ackd.errors import InputError

Scores = NDArray[np.float64]

BLOCK = 2**20  # numbers per block of resamples, to limit memory to a few megabytes
MIN_TO_CLOSE = 1e-9  # a smaller gap between the single and the virtual best is a rounding error


@dataclass(frozen=True)
class Interval:
    """A statistic and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Formats as `+1.46 [0.83, 2.09]` for `+.2f`; without unknown bounds."""
        if math.isnan(self.low):
            return f"{self.value:{spec}}"
        return f"{self.value:{spec}} [{self.low:{spec.lstrip('+')}}, {self.high:{spec.lstrip('+')}}]"


def iqm(scores: Scores) -> float:
    """The interquartile mean: the mean of the middle half of all scores [runs, tasks].

        mean(x_(k+1), ..., x_(n-k)),  x sorted,  n = runs * tasks,  k = floor(n / 4)

    k is rounded down, as in `scipy.stats.trim_mean(scores, 0.25, axis=None)`; below four scores it is the plain mean.

    Raises:
        InputError: if the scores are not finite or not [runs, tasks].

    References:
        Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021, https://arxiv.org/abs/2108.13264
    """
    return float(iqms(_checked(scores)))


def iqms(scores: Scores) -> Scores:
    """The `iqm` over the last two axes of scores [..., runs, tasks], as an array [...]."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1))
    cut = ordered.shape[-1] // 4
    middle: Scores = ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    return middle


def stratified_bootstrap(
    statistic: Callable[..., float | Scores],
    *scores: Scores,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
    vectorized: bool = False,
) -> Interval:
    """The percentile bootstrap interval of `statistic(*scores)`; runs are resampled for every task.

        quantiles (1 - confidence) / 2 and (1 + confidence) / 2 of statistic(x*),  x*[i, t] = x[r_it, t],
        r_it uniform over the runs

    Several arrays [runs, tasks] are resampled independently and may differ in their runs. With few runs the interval
    is too narrow: at 95 % it contains the mean of 5 normal tasks in 87 % of studies with 3 runs, and in 94 % with 10.
    With one run its width is 0.

    Args:
        statistic: function from arrays like `scores` to a number.
        *scores: one or several arrays.
        rng: generator for the resampling.
        resamples: number of resamples.
        confidence: confidence level of the interval.
        vectorized: True if the statistic maps arrays [resamples, runs, tasks] to [resamples] numbers; the interval is
            the same, but much faster.

    Raises:
        InputError: if the scores are not finite or not [runs, tasks], the statistic is not finite, `resamples` is
            below 1, or `confidence` is not between 0 and 1.

    References:
        Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021, https://arxiv.org/abs/2108.13264
    """
    arrays = [_checked(one) for one in scores]
    if resamples < 1:
        raise InputError(f"resamples is {resamples}: give 1 or more, 2000 as a rule")
    _between(confidence)
    values: Scores = np.empty(resamples + 1)
    values[:1] = statistic(*(one[None] for one in arrays)) if vectorized else statistic(*arrays)
    block = max(BLOCK // (arrays[0].shape[1] * math.prod(len(one) for one in arrays)), 1)
    for start in range(1, len(values), block):
        part = values[start : start + block]
        drawn = _redrawn(arrays, len(part), rng)
        judged: Any = statistic(*drawn) if vectorized else [statistic(*one) for one in zip(*drawn, strict=True)]
        part[:] = judged
    if not np.isfinite(values).all():
        raise InputError(
            f"the statistic is {values[~np.isfinite(values)][0]} on the scores or a resample of them: "
            "use one that is finite for all, also where every run drawn is the same"
        )
    low, high = np.quantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values[0]), float(low), float(high))


def paired_difference(first: Scores, second: Scores, *, confidence: float = 0.95) -> Interval:
    """The mean difference of `first` and `second` [runs, tasks] on the same seeds, with Student's interval.

        d_i = mean_t (x[i, t] - y[i, t]),   mean(d) -+ q * std(d) / sqrt(runs),
        q the (1 + confidence) / 2 quantile of Student's t with runs - 1 degrees of freedom

    Effects of a seed on both cancel. With one run the spread is unknown, and the bounds are NaN.

    Raises:
        InputError: if the scores are not finite or not [runs, tasks], or differ in shape, or `confidence` is not
            between 0 and 1.

    References:
        The Probable Error of a Mean, 1908, https://www.jstor.org/stable/2331554
    """
    one, two = _checked(first, "first"), _checked(second, "second")
    if one.shape != two.shape:
        raise InputError(
            f"first has the shape {one.shape} and second {two.shape}: pairs need the same runs and tasks in the same "
            "order; leave out what only one of them has"
        )
    _between(confidence)
    apart = (one - two).mean(1)
    middle, runs = float(apart.mean()), len(apart)
    if runs == 1:
        return Interval(middle, math.nan, math.nan)
    half = float(stats.t.ppf((1 + confidence) / 2, runs - 1) * apart.std(ddof=1) / math.sqrt(runs))
    return Interval(middle, middle - half, middle + half)


def probability_of_improvement(first: Scores, second: Scores) -> float:
    """The probability that a run of `first` [runs, tasks] beats a run of `second` [other runs, tasks], over all tasks.

        mean_t (P(X_t > Y_t) + P(X_t = Y_t) / 2) over all pairs of runs, which is Mann-Whitney's U / (runs_x * runs_y)

    Raises:
        InputError: if the scores are not finite or not [runs, tasks], or the numbers of tasks differ.

    References:
        Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021, https://arxiv.org/abs/2108.13264
    """
    one, two = _checked(first, "first"), _checked(second, "second")
    if one.shape[-1] != two.shape[-1]:
        raise InputError(
            f"first has {one.shape[-1]} tasks and second {two.shape[-1]}: give both the same tasks in the same order"
        )
    return float(probabilities_of_improvement(one, two))


def probabilities_of_improvement(first: Scores, second: Scores) -> Scores:
    """The `probability_of_improvement` over the last two axes of arrays [..., runs, tasks], as an array [...]."""
    one, two = first[..., :, None, :], second[..., None, :, :]
    share: Scores = ((one > two) + 0.5 * (one == two)).mean((-3, -2, -1))
    return share


def performance_profile(scores: Scores, thresholds: ArrayLike) -> Scores:
    """The share of all scores [runs, tasks] above each threshold, as an array [thresholds].

        F(tau) = mean_it [x[i, t] > tau], the run-score distribution

    Raises:
        InputError: if the scores are not finite or not [runs, tasks], or the thresholds are not a list of numbers.

    References:
        Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021, https://arxiv.org/abs/2108.13264
    """
    ordered = np.sort(_checked(scores), axis=None)
    limits = _checked(thresholds, "thresholds", "[thresholds]")
    return (len(ordered) - np.searchsorted(ordered, limits, side="right")) / len(ordered)


def gap_closed(score: float, sbs: float, vbs: float) -> float | None:
    """The share of the gap between single best and virtual best static that a score closes; None without a gap.

        (score - SBS) / (VBS - SBS)

    SBS is the score of the best static over the training instances. VBS is the score of the best static for each
    instance. Higher is better. A negative share is worse than SBS; above 1 is better than VBS.

    Raises:
        InputError: if a number is not finite.

    References:
        The Algorithm Selection Competitions 2015 and 2017, 2018, https://arxiv.org/abs/1805.01214
        (reports the share left open, which is 1 minus this value)
    """
    _finite(score=score, sbs=sbs, vbs=vbs)
    return (score - sbs) / (vbs - sbs) if vbs - sbs > MIN_TO_CLOSE else None


def break_even(learning_cost: float, saved_per_reuse: float) -> float:
    """The number of reuses, not rounded, that pay back the cost of learning; infinite if nothing is saved.

        learning_cost / saved_per_reuse, both in the same unit (our own definition)

    Raises:
        InputError: if a number is not finite, or the cost is negative.
    """
    _finite(learning_cost=learning_cost, saved_per_reuse=saved_per_reuse)
    if learning_cost < 0:
        raise InputError(f"learning_cost is {learning_cost}: give what learning cost, 0 or more")
    return learning_cost / saved_per_reuse if saved_per_reuse > 0 else math.inf


def _between(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}: give a number between 0 and 1, as 0.95 for 95 %")


def _redrawn(arrays: Sequence[Scores], count: int, rng: np.random.Generator) -> list[Scores]:
    """The resampled arrays [count, runs, tasks]; runs are drawn with replacement for every task."""
    runs = np.repeat([len(one) for one in arrays], [one.size for one in arrays])
    drawn = rng.integers(runs, size=(count, len(runs)))
    places = np.split(drawn, np.cumsum([one.size for one in arrays])[:-1], axis=1)
    return [
        one[rows.reshape(count, *one.shape), np.arange(one.shape[1])] for one, rows in zip(arrays, places, strict=True)
    ]


def _checked(values: ArrayLike, name: str = "scores", axes: str = "[runs, tasks]") -> Scores:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array of numbers {axes} ({error}): give every row the same length") from error
    if array.ndim != axes.count(",") + 1 or not array.size:
        raise InputError(f"{name} has the shape {array.shape}: give an array {axes} without an empty axis")
    if not np.isfinite(array).all():
        place = tuple(int(axis) for axis in np.argwhere(~np.isfinite(array))[0])
        raise InputError(
            f"{name}{list(place)} of {axes} is {array[place]}: give a finite number; repeat what failed or leave it out"
        )
    return array


def _finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise InputError(f"{name} is {number}: give a finite number")
