"""Shares of gaps between policies, by hand and where there is nothing to share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ackd.comparison import Comparison, gaps_closed


def of(**scores: list[list[float]] | NDArray[np.float64]) -> Comparison:
    arrays = {name: np.array(values) for name, values in scores.items()}
    return Comparison(("sst2", "mrpc"), arrays, arrays, {}, "")


def test_the_gap_between_the_bests_is_closed_in_part() -> None:
    both = of(
        labels=[[0.2, 0.6], [0.3, 0.7], [0.1, 0.5]],  # means 0.2 and 0.6: the single best, 0.4
        all=[[0.5, 0.2], [0.6, 0.1], [0.4, 0.0]],  # means 0.5 and 0.1; the bests by task are 0.5 and 0.6: 0.55
        learned=[[0.5, 0.55], [0.5, 0.55], [0.4, 0.5]],  # 0.5
    )
    closed = gaps_closed(both, ("labels", "all"))
    assert closed == pytest.approx({"labels": 0.0, "all": (0.3 - 0.4) / 0.15, "learned": (0.5 - 0.4) / 0.15})
    assert gaps_closed(both, ("labels",)) == gaps_closed(both, ()) == {}
    one_run = {name: scores[:1] for name, scores in both.scores.items()}
    assert gaps_closed(of(**one_run), ("labels", "all")) == {}


def test_a_run_has_no_say_in_what_it_is_measured_against() -> None:
    """On the second task labels are best by the first run alone, where everybody else would have chosen otherwise."""
    labels = np.tile([1.0, 0.0], (8, 1)) + np.linspace(0, 0.01, 8)[:, None]
    both = of(labels=labels, all=labels[:, ::-1].copy())
    both.scores["labels"][0, 1] = 1.5
    closed = gaps_closed(both, ("labels", "all"))
    # of the first run the best on the second task is `all`, as the others say: 1, and not 1.5
    virtual = (labels[:, 0].mean() + both.scores["all"][:, 1].mean()) / 2
    single, other = both.scores["labels"].mean(), both.scores["all"].mean()  # as good as each other, but for that run
    assert closed == pytest.approx({"labels": 0.0, "all": (other - single) / (virtual - single)})


def test_a_gap_that_may_be_noise_is_not_divided_by() -> None:
    both = of(
        labels=[[0.2, 0.6], [0.3, 0.7], [0.1, 0.5]],
        all=[[0.5, 0.2], [0.1, 0.1], [0.03, 0.0]],  # better on the first task by 0.01 on average, and mostly worse
        learned=[[0.9, 0.9], [0.9, 0.9], [0.9, 0.9]],
    )
    assert gaps_closed(both, ("labels", "all")) == {}


@pytest.mark.parametrize("better", [0.0, 1.0])
def test_where_no_policy_has_tasks_of_its_own_a_gap_is_seldom_found(better: float) -> None:
    """Eight policies that are equally good on each of eight tasks, but that one may be better on all: 5 % by design."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(60):
        scores = {str(i): rng.normal(size=(5, 8)) + better * (i == 0) for i in range(8)}
        found += bool(gaps_closed(of(**scores), tuple(scores)))
    assert found <= 8


def test_where_policies_have_tasks_of_their_own_the_gap_is_found_and_a_stranger_closes_what_it_does() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        scores = {str(i): rng.normal(size=(5, 8)) + 3 * (np.arange(8) % 4 == i) for i in range(4)}
        known = {"best": np.full((5, 8), 3.0)}  # what the best of each task has but for the noise
        closed = gaps_closed(of(**scores, **known), tuple(scores))
        assert closed["best"] == pytest.approx(1.0, abs=0.35)
