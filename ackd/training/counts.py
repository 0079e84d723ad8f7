"""Steps taken and their costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ackd.costs import CostTracker
from ackd.distributed.process_group import Group
from ackd.training.distiller import Distiller
from ackd.types import Batch, Selection


class Counts:
    """Counters of a training of one student or of several side by side.

    Args:
        seeds: one per student.
        spent: costs before the first step, e.g. of choosing examples.
        listed: whether `counters` contains lists over students, or plain numbers of a single student.
    """

    def __init__(self, seeds: Sequence[int], spent: CostTracker, *, listed: bool) -> None:
        self.seeds, self.steps_done, self.listed = tuple(seeds), 0, listed
        self.costs = CostTracker()
        self.costs.add(spent)
        self.prices = [0.0] * len(seeds)  # FLOPs of each student's selections, without a cache
        self.price_of_all = 0.0  # FLOPs of transferring everything, for one student
        self._shown: float | None = None  # time of the agent's last observation
        self._known: dict[tuple[tuple[str, ...] | None, tuple[int, int]], float] = {}

    @property
    def price(self) -> float:
        """FLOPs of the first student's selections if every teacher output had been computed (no cache)."""
        return self.prices[0]

    def count(self, batches: Sequence[Batch], selections: Sequence[Selection], step: Distiller) -> None:
        """Adds the FLOPs that each student alone would need for these batches."""
        shapes = [batch.shape for batch in batches]
        for i, selection in enumerate(selections):
            self.prices[i] += sum(self._price(step, selection.chosen, shape) for shape in shapes)
        self.price_of_all += sum(self._price(step, None, shape) for shape in shapes)

    def _price(self, step: Distiller, names: tuple[str, ...] | None, shape: tuple[int, int]) -> float:
        if (names, shape) not in self._known:
            chosen = [step.knowledge[name] for name in (step.knowledge if names is None else names)]
            self._known[names, shape] = step.flops(chosen, *shape, whole=names is None)
        return self._known[names, shape]

    def shown(self, ago: float = 0.0) -> None:
        """Notes that an agent got an observation `ago` seconds ago; starts the agent's time until `decided`."""
        self._shown = time.perf_counter() - ago

    def decided(self, flops: float = 0.0) -> None:
        """Notes that an agent has decided or learned, and adds its FLOPs."""
        if self._shown is not None:
            self.costs.seconds["agent"] += time.perf_counter() - self._shown
            self._shown = None
        self.costs.add_flops("agent", flops)

    def reduce_costs(self, group: Group) -> None:
        """Adds the counters of all ranks to those of rank 0."""
        counted = group.gather((self.costs, self.prices, self.price_of_all))
        if group.rank:
            self.clear()
            return
        for costs, prices, price_of_all in counted[1:]:
            self.costs.add(replace(costs, steps=0, reward_passes=0.0))  # all ranks share steps and reward passes
            self.prices = [mine + theirs for mine, theirs in zip(self.prices, prices, strict=True)]
            self.price_of_all += price_of_all

    def clear(self) -> None:
        """Resets all counters except `steps_done`."""
        vars(self.costs).update(vars(CostTracker()))
        self.prices, self.price_of_all = [0.0] * len(self.prices), 0.0

    def counters(self) -> dict[str, Any]:
        """The counters, by their names in files."""
        own = {"seeds": list(self.seeds), "prices": list(self.prices)}
        if not self.listed:
            own = {"seed": self.seeds[0], "price": self.prices[0]}
        rest = {"steps_done": self.steps_done, "price_of_all": self.price_of_all, "ledger": self.costs.as_dict()}
        return own | rest

    def load_counters(self, counters: dict[str, Any], steps: int) -> None:
        """Restores `counters` of a training with a budget of `steps`.

        Raises:
            ValueError: if they count more than `steps` steps, or another number of students.
        """
        seeds, prices = (
            (counters["seeds"], counters["prices"]) if self.listed else ([counters["seed"]], [counters["price"]])
        )
        if not len(seeds) == len(prices) == len(self.seeds):
            raise ValueError(f"it has counted for other students than these {len(self.seeds)}")
        if not 0 <= counters["steps_done"] <= steps:
            raise ValueError(f"it has taken {counters['steps_done']} of {steps} steps")
        vars(self.costs).update(vars(CostTracker(**counters["ledger"])))
        self.seeds, self.steps_done = tuple(seeds), counters["steps_done"]
        self.prices, self.price_of_all = list(prices), counters["price_of_all"]
