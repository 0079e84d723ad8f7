"""Shares of gaps between policies, by hand and where there is nothing to share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ackd.reporting.comparison import Comparison, fronts, gaps_closed
from ackd.reporting.tables import tables
from ackd.runs.log import Cell


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


def test_the_fronts_are_those_of_means_compared_one_by_one() -> None:
    """Against brute force: who is beaten by somebody in one of the two means, and not better in the other."""
    rng = np.random.default_rng(3)
    cells = [
        Cell(
            task, f"p{i}", seed, "accuracy", float(rng.integers(70, 74)), 90.0, None, float(rng.integers(6, 10)) / 10, 1
        )
        for task in ("sst2", "mrpc")
        for i in range(12)
        for seed in range(2)
    ]
    cells.append(Cell("mrpc", "cheap", 0, "accuracy", None, 90.0, None, 0.1, 1.0))  # diverged
    found = fronts(cells)
    assert list(found) == ["sst2", "mrpc"]
    for task, front in found.items():
        score: dict[str, list[float]] = {}
        cost: dict[str, list[float]] = {}
        for cell in cells:
            if cell.task == task and cell.score is not None:
                score.setdefault(cell.policy, []).append(cell.score)
                cost.setdefault(cell.policy, []).append(cell.flops_share)
        means = {name: (sum(score[name]), -sum(cost[name])) for name in score}
        kept = {
            name
            for name, (s, c) in means.items()
            if not any(other != (s, c) and other[0] >= s and other[1] >= c for other in means.values())
        }
        assert set(front) == kept
        assert 1 < len(kept) < 12
        assert front == sorted(front, key=lambda name: -means[name][1])


def test_the_table_names_the_front() -> None:
    def row(policy: str, score: float | None, flops: float) -> dict[str, object]:
        cell = {"task": "sst2", "policy": policy, "seed": 0, "metric": "accuracy", "dev_score": score}
        return {**cell, "teacher_score": 90.0, "reward": None, "flops_share": flops, "seconds": 1.0, "steps": 10}

    rows = [row("all", 80.0, 1.0), row("labels", 70.0, 0.6), row("random", 69.0, 0.8), row("half", None, 0.5)]
    assert "| sst2 | labels, all |" in tables(rows)
    assert "Pareto" not in tables(rows[:1])
