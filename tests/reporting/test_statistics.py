"""The statistics equal their published formulas, computed here in another way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import stats

from ackd.errors import InputError
from ackd.reporting import statistics
from ackd.reporting.statistics import (
    Interval,
    break_even,
    gap_closed,
    iqm,
    iqms,
    paired_difference,
    performance_profile,
    probabilities_of_improvement,
    probability_of_improvement,
    stratified_bootstrap,
)

Array = NDArray[np.float64]

# Quarters make ties likely, and sums of them exact.
number = st.integers(-40, 40).map(lambda value: value / 4)
shape = array_shapes(min_dims=2, max_dims=2, max_side=7)
table = shape.flatmap(lambda sides: arrays(np.float64, sides, elements=number))
two_tables = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda sides: st.tuples(
        arrays(np.float64, (sides[0], sides[2]), elements=number),
        arrays(np.float64, (sides[1], sides[2]), elements=number),
    )
)


def normal(*sides: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=sides)


def mean(*scores: Array) -> float:
    return float(scores[0].mean() - sum(one.mean() for one in scores[1:]))


# The interquartile mean


@pytest.mark.parametrize("runs", range(1, 12))
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_iqm_is_the_trimmed_mean(runs: int, tasks: int) -> None:
    scores = normal(runs, tasks, seed=runs)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


def test_iqm_by_hand() -> None:
    assert iqm(np.array([[100.0, 3.0], [-50.0, 1.0]])) == 2.0
    assert iqm(np.array([[9.0], [1.0], [2.0]])) == 4.0  # too few to trim
    assert iqm(np.array([[7.0, 1.0, 2.0, 3.0, 900.0]])) == 4.0  # one from each end of five


@given(table, st.randoms(use_true_random=False))
def test_iqm_forgets_the_order(scores: Array, random: Any) -> None:
    mixed = scores.ravel().tolist()
    random.shuffle(mixed)
    assert iqm(np.reshape(mixed, scores.shape)) == iqm(scores)
    assert iqm(scores.T) == iqm(scores)


@given(table)
def test_iqm_lies_between_the_quartiles(scores: Array) -> None:
    low, high = np.quantile(scores, [0.25, 0.75])
    assert low - 1e-9 <= iqm(scores) <= high + 1e-9


@given(table, number, number)
def test_iqm_follows_shift_and_scale(scores: Array, shift: float, scale: float) -> None:
    assert iqm(scale * scores + shift) == pytest.approx(scale * iqm(scores) + shift, abs=1e-9)


@pytest.mark.parametrize("place", [0, 7, 19])
def test_iqm_shrugs_off_a_lucky_run(place: int) -> None:
    scores = normal(10, 2)
    lucky = scores.copy()
    lucky.flat[place] = 1e6
    ordered = np.sort(np.delete(scores, place))
    assert iqm(lucky) == pytest.approx(ordered[5:15].mean())


# The bootstrap


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = normal(6, 3)
    first, again, other = (
        stratified_bootstrap(iqm, scores, rng=np.random.default_rng(seed), resamples=200) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    assert first.value == iqm(scores)
    assert first.low < first.value < first.high


def test_the_interval_is_the_percentiles_of_redrawn_runs() -> None:
    scores, rng = normal(5, 3), np.random.default_rng(1)
    means = []
    for _ in range(300):
        rows = rng.integers(5, size=(5, 3))
        means.append(np.mean([[scores[rows[run, task], task] for task in range(3)] for run in range(5)]))
    found = stratified_bootstrap(mean, scores, rng=np.random.default_rng(1), resamples=300, confidence=0.8)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [10, 90])))


@pytest.mark.parametrize("block", [1, 500, statistics.BLOCK])
@pytest.mark.parametrize("runs", [1, 2, 7])
def test_many_resamples_at_once_give_the_same_interval(runs: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with one array and with two of different runs, whatever is worked on at a time."""
    scores, others = normal(runs, 3), normal(4, 3, seed=1)
    one = stratified_bootstrap(iqm, scores, rng=np.random.default_rng(2), resamples=100)
    two = stratified_bootstrap(probability_of_improvement, scores, others, rng=np.random.default_rng(2), resamples=100)
    monkeypatch.setattr(statistics, "BLOCK", block)
    rng = np.random.default_rng(2)
    assert stratified_bootstrap(iqms, scores, rng=rng, resamples=100, vectorized=True) == one
    rng, statistic = np.random.default_rng(2), probabilities_of_improvement
    assert stratified_bootstrap(statistic, scores, others, rng=rng, resamples=100, vectorized=True) == two


def test_runs_stay_in_their_task_and_are_drawn_for_each_anew() -> None:
    scores = np.arange(4.0)[:, None] + np.array([0.0, 10.0, 20.0])
    seen: list[Array] = []

    def statistic(drawn: Array) -> float:
        seen.append(drawn)
        return float(drawn.mean())

    stratified_bootstrap(statistic, scores, rng=np.random.default_rng(0), resamples=50)
    assert seen[0] is scores
    assert all(drawn.shape == scores.shape for drawn in seen)
    rows = np.array([drawn - [0.0, 10.0, 20.0] for drawn in seen[1:]])
    assert set(rows.ravel()) == {0.0, 1.0, 2.0, 3.0}
    assert any((one[:, 0] != one[:, 1]).any() for one in rows)
    assert any(len(set(one[:, 0])) < 4 for one in rows)


def test_the_bootstrap_deviation_is_the_textbook_one() -> None:
    """The width of a large sample's interval follows from the standard error of a mean of independent strata."""
    scores = normal(40, 4) * np.array([1.0, 2.0, 0.5, 3.0]) + np.array([0.0, 50.0, -50.0, 100.0])
    error = math.sqrt((scores.var(axis=0) / 40).sum()) / 4
    found = stratified_bootstrap(mean, scores, rng=np.random.default_rng(0), resamples=4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


@pytest.mark.parametrize("statistic", [iqm, mean])
def test_one_run_gives_no_width(statistic: Callable[..., float]) -> None:
    scores = normal(1, 4)
    found = stratified_bootstrap(statistic, scores, rng=np.random.default_rng(0), resamples=20)
    assert found == Interval(statistic(scores), statistic(scores), statistic(scores))
    paired = paired_difference(scores, scores + 1)
    assert paired.value == pytest.approx(-1.0)
    assert math.isnan(paired.low)
    assert math.isnan(paired.high)
    assert f"{paired:+.2f}" == "-1.00"


def test_one_resample_is_enough() -> None:
    found = stratified_bootstrap(mean, normal(3, 2), rng=np.random.default_rng(0), resamples=1)
    assert found.low == found.high


@given(arrays(np.float64, (4, 2), elements=number), st.integers(0, 2**32 - 1))
def test_the_interval_of_symmetric_scores_contains_their_centre(half: Array, seed: int) -> None:
    symmetric = np.concatenate([half, -half])
    found = stratified_bootstrap(mean, symmetric, rng=np.random.default_rng(seed), resamples=200)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.low <= 1e-12
    assert found.high >= -1e-12


def test_more_confidence_is_wider() -> None:
    scores = normal(8, 2)
    widths = []
    for confidence in (0.5, 0.8, 0.95, 0.99):
        found = stratified_bootstrap(mean, scores, rng=np.random.default_rng(0), resamples=500, confidence=confidence)
        widths.append(found.high - found.low)
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


@pytest.mark.parametrize(("paired", "least"), [(False, 0.85), (True, 0.92)])
def test_the_interval_covers_the_truth(paired: bool, least: float) -> None:
    """95 % intervals of 300 simulated studies with 10 runs x 5 tasks: those of a bootstrap cover less."""
    truth, covered = np.arange(5.0), 0
    for study in range(300):
        rng = np.random.default_rng(study)
        scores = truth + rng.normal(size=(10, 5)) * (1 + truth)
        if paired:
            shared = 20 * rng.normal(size=(10, 5))
            found = paired_difference(scores + shared, shared)
        else:
            found = stratified_bootstrap(mean, scores, rng=rng, resamples=300)
        covered += found.low <= truth.mean() <= found.high
    assert least <= covered / 300 <= 0.99


def test_several_arrays_are_drawn_apart() -> None:
    first, second = normal(7, 3), normal(4, 3, seed=1)
    found = stratified_bootstrap(probability_of_improvement, first, second, rng=np.random.default_rng(0), resamples=300)
    assert found.value == probability_of_improvement(first, second)
    assert 0 <= found.low < found.value < found.high <= 1
    apart = stratified_bootstrap(mean, first, first, rng=np.random.default_rng(0), resamples=300)
    assert apart.low < 0 < apart.high


def test_pairs_stay_together() -> None:
    """What a seed adds to both cancels in a pair, and hides the difference where they are drawn apart."""
    luck = 10 * normal(8, 3)
    first, second = luck + 1, luck + 0.1 * normal(8, 3, seed=1)
    paired = paired_difference(first, second)
    apart = stratified_bootstrap(mean, first, second, rng=np.random.default_rng(0), resamples=300)
    assert paired.value == pytest.approx(apart.value)
    assert 0.8 < paired.low < paired.high < 1.2
    assert apart.low < 0 < apart.high
    known = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((known.low, known.high))
    assert f"{Interval(1.461, 0.826, 2.094):+.2f}" == "+1.46 [0.83, 2.09]"


# Probability of improvement


@given(two_tables)
def test_improvement_counts_the_pairs(pair: tuple[Array, Array]) -> None:
    first, second = pair
    shares = []
    for task in range(first.shape[1]):
        won = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(first[:, task], second[:, task])]
        shares.append(sum(won) / len(won))
    assert probability_of_improvement(first, second) == pytest.approx(sum(shares) / len(shares))


@given(two_tables)
def test_improvement_and_its_reverse_sum_to_one(pair: tuple[Array, Array]) -> None:
    first, second = pair
    there, back = probability_of_improvement(first, second), probability_of_improvement(second, first)
    assert there + back == pytest.approx(1.0)
    assert 0 <= there <= 1


def test_improvement_is_mann_whitney() -> None:
    first, second = np.round(normal(9, 4), 1), np.round(normal(6, 4, seed=1), 1)
    tests = [stats.mannwhitneyu(first[:, task], second[:, task]).statistic / 54 for task in range(4)]
    assert probability_of_improvement(first, second) == pytest.approx(np.mean(tests))


def test_improvement_at_its_ends() -> None:
    scores = normal(5, 2)
    assert probability_of_improvement(scores, scores) == 0.5
    assert probability_of_improvement(scores + 100, scores) == 1.0
    assert probability_of_improvement(scores - 100, scores) == 0.0


# Profiles and gaps


@given(table, st.lists(number, min_size=1, max_size=9))
def test_profile_counts_the_scores_above(scores: Array, thresholds: list[float]) -> None:
    expected = [sum(score > limit for score in scores.ravel()) / scores.size for limit in thresholds]
    assert performance_profile(scores, np.array(thresholds)).tolist() == pytest.approx(expected)


@given(table, st.lists(number, min_size=2, max_size=9).map(sorted))
def test_profile_never_rises(scores: Array, thresholds: list[float]) -> None:
    profile = performance_profile(scores, thresholds)
    assert (np.diff(profile) <= 0).all()
    assert performance_profile(scores, [scores.min() - 1, scores.max()]).tolist() == [1.0, 0.0]


def test_the_area_under_the_profile_is_the_mean() -> None:
    scores = np.random.default_rng(0).uniform(size=(6, 3))
    steps = (np.arange(100_000) + 0.5) / 100_000
    assert performance_profile(scores, steps).mean() == pytest.approx(scores.mean(), abs=1e-4)


@given(number, number, number)
def test_gap_closed_is_linear_between_the_two_bests(score: float, sbs: float, vbs: float) -> None:
    found = gap_closed(score, sbs, vbs)
    if vbs <= sbs:
        assert found is None
    else:
        assert found is not None
        assert sbs + found * (vbs - sbs) == pytest.approx(score)
        assert (gap_closed(sbs, sbs, vbs), gap_closed(vbs, sbs, vbs)) == (0.0, 1.0)


def test_gap_closed_by_hand() -> None:
    assert gap_closed(0.85, 0.8, 0.9) == pytest.approx(0.5)
    assert gap_closed(0.7, 0.8, 0.9) == pytest.approx(-1.0)
    assert gap_closed(0.9, 0.8, 0.8) is None
    assert gap_closed(0.9, 0.0, 1e-9) is None
    assert gap_closed(2e-9, 0.0, 2e-9) == 1.0


def test_break_even() -> None:
    assert break_even(100.0, 8.0) == 12.5
    assert break_even(0.0, 8.0) == 0.0
    assert break_even(100.0, 0.0) == math.inf
    assert break_even(100.0, -1.0) == math.inf


# What is refused

good = np.ones((2, 3))
of_scores: list[Callable[[Any], object]] = [
    iqm,
    lambda scores: performance_profile(scores, [0.5]),
    lambda scores: stratified_bootstrap(mean, scores, rng=np.random.default_rng(0)),
    lambda scores: stratified_bootstrap(mean, good, scores, rng=np.random.default_rng(0)),
    lambda scores: paired_difference(scores, good),
    lambda scores: paired_difference(good, scores),
    lambda scores: probability_of_improvement(scores, good),
    lambda scores: probability_of_improvement(good, scores),
]


@pytest.mark.parametrize("function", of_scores)
@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([[1, 2, 3], [4, math.nan, 6]], r"\[1, 1\] of \[runs, tasks\] is nan: give a finite number; repeat what"),
        ([[1, 2, -math.inf]], r"\[0, 2\] of \[runs, tasks\] is -inf: give a finite number"),
        ([1, 2, 3], r" has the shape \(3,\): give an array \[runs, tasks\] without an empty axis"),
        (5, r" has the shape \(\): give an array \[runs, tasks\]"),
        (np.ones((2, 3, 1)), r" has the shape \(2, 3, 1\): give an array \[runs, tasks\]"),
        (np.ones((0, 3)), r" has the shape \(0, 3\): give an array \[runs, tasks\] without an empty axis"),
        ([[1, 2, 3], [4, 5]], r" is no array of numbers \[runs, tasks\] \(.*\): give every row the same length"),
        ([["high", "low"]], r" is no array of numbers \[runs, tasks\] \(could not convert string"),
    ],
)
def test_scores_that_cannot_be_used(function: Callable[[Any], object], scores: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=r"^(scores|first|second)" + sentence):
        function(scores)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda rng: paired_difference(good, np.ones((3, 3))),
            r"^first has the shape \(2, 3\) and second \(3, 3\): pairs need the same runs and tasks in the same order; "
            r"leave out what only one of them has$",
        ),
        (
            lambda rng: probability_of_improvement(good, np.ones((2, 1))),
            "^first has 3 tasks and second 1: give both the same tasks in the same order$",
        ),
        (lambda rng: stratified_bootstrap(mean, good, rng=rng, resamples=0), "^resamples is 0: give 1 or more, 2000"),
        (
            lambda rng: stratified_bootstrap(mean, good, rng=rng, confidence=95),
            "^confidence is 95: give a number between 0 and 1, as 0.95 for 95 %$",
        ),
        (lambda rng: paired_difference(good, good, confidence=math.nan), "^confidence is nan: give a"),
        (
            lambda rng: stratified_bootstrap(lambda scores: math.inf, good, rng=rng),
            "^the statistic is inf on the scores or a resample of them: use one that is finite for all",
        ),
        (
            lambda rng: stratified_bootstrap(lambda one: 1.0 if one.std() else math.nan, normal(2, 1), rng=rng),
            "^the statistic is nan on the scores or a resample of them: .*, also where every run drawn is the same$",
        ),
        (lambda rng: performance_profile(good, []), r"^thresholds has the shape \(0,\): give an array \[thresholds\]"),
        (lambda rng: performance_profile(good, 0.5), r"^thresholds has the shape \(\): give an array \[thresholds\]"),
        (lambda rng: performance_profile(good, [0, math.nan]), r"^thresholds\[1\] of \[thresholds\] is nan: give a"),
        (lambda rng: gap_closed(math.nan, 0, 1), "^score is nan: give a finite number$"),
        (lambda rng: gap_closed(0, math.inf, 1), "^sbs is inf: give a finite number$"),
        (lambda rng: gap_closed(0, 0, math.nan), "^vbs is nan: give a finite number$"),
        (lambda rng: break_even(math.inf, 1), "^learning_cost is inf: give a finite number$"),
        (lambda rng: break_even(1, math.nan), "^saved_per_reuse is nan: give a finite number$"),
        (lambda rng: break_even(-3.0, 1), "^learning_cost is -3.0: give what learning cost, 0 or more$"),
    ],
)
def test_arguments_that_cannot_be_used(call: Callable[[np.random.Generator], object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call(np.random.default_rng(0))
