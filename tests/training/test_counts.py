"""Counters of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from ackd.costs import CostTracker
from ackd.distributed.process_group import Alone
from ackd.training.counts import Counts

V = TypeVar("V")


class Ranks(Alone):
    """A group whose other ranks have counted already."""

    def __init__(self, rank: int, counts: Sequence[Counts]) -> None:
        self.rank, self.size = rank, len(counts)
        self._values = [(one.costs, one.prices, one.price_of_all) for one in counts]

    def gather(self, value: V) -> list[V]:
        return cast(list[V], self._values)


def counted(price: float, of_all: float, student: float) -> Counts:
    counts = Counts([0], CostTracker(), listed=False)
    counts.prices, counts.price_of_all = [price], of_all
    counts.costs.add_flops("student", student)
    counts.costs.steps, counts.costs.reward_passes = 5, 2.0
    return counts


def test_rank_0_has_the_sum_of_all_ranks() -> None:
    ranks = [counted(10.0, 16.0, 1.0), counted(20.0, 32.0, 2.0), counted(40.0, 64.0, 4.0)]
    first = ranks[0]
    first.reduce_costs(Ranks(0, ranks))
    assert (first.price, first.price_of_all, first.costs.flops["student"]) == (70.0, 112.0, 7.0)
    assert (first.costs.steps, first.costs.reward_passes) == (5, 2.0)  # shared by all ranks


def test_other_ranks_count_from_0_again() -> None:
    ranks = [counted(10.0, 16.0, 1.0), counted(20.0, 32.0, 2.0)]
    ranks[1].reduce_costs(Ranks(1, ranks))
    assert ranks[1].counters() == Counts([0], CostTracker(), listed=False).counters()
