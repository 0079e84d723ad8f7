"""Shares of gaps between policies, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ackd.comparison import Comparison, gaps_closed


def of(**scores: list[list[float]]) -> Comparison:
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
    assert gaps_closed(both, ("labels",)) == {}


def test_a_gap_that_may_be_noise_is_not_divided_by() -> None:
    both = of(
        labels=[[0.2, 0.6], [0.3, 0.7], [0.1, 0.5]],
        all=[[0.5, 0.2], [0.1, 0.1], [0.03, 0.0]],  # better on the first task by 0.01 on average, and mostly worse
        learned=[[0.9, 0.9], [0.9, 0.9], [0.9, 0.9]],
    )
    assert gaps_closed(both, ("labels", "all")) == {}
