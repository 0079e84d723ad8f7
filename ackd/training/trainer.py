"""Runs the training steps of one student or of several side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ackd.mdp.episode import Facts
from ackd.numerics.streams import RngStreams
from ackd.tasks import Split
from ackd.teachers import caches_of, flush
from ackd.training.counts import Counts
from ackd.training.distiller import Distiller
from ackd.training.evaluation import Evaluator
from ackd.training.replay import Training, replayable
from ackd.training.sampler import LengthGroupedSampler
from ackd.types import Batch, EvalResult, Selection, StepMetrics, means


@dataclass
class Trainer:
    """Trains one or several students; they share each batch and each teacher output."""

    distiller: Distiller  # takes the steps
    evaluator: Evaluator  # evaluates the same students
    counts: Counts
    streams: RngStreams  # random numbers of dropout and order
    order: LengthGroupedSampler  # order of the examples
    steps: int  # the budget
    accumulate: int  # batches whose gradients make one optimizer step

    def __post_init__(self) -> None:
        self.student, self._group = self.distiller.student, self.distiller.student.group
        self._last = np.arange(min(self.order.size, len(self.order.lengths)))  # indices of the last batch
        self._lost: set[int] = set()  # diverged students for which the teachers' outputs have been checked
        self._caches = [one for teacher in self.distiller.teachers for one in caches_of(teacher)]

    def inherit(self, parents: Sequence[int]) -> None:
        """Gives student i the scales and costs of student `parents[i]`; [N] indices."""
        self.distiller.scales.inherit(parents)
        self.counts.prices = [self.counts.prices[parent] for parent in parents]
        self._lost = {i for i, parent in enumerate(parents) if parent in self._lost}

    @property
    def last(self) -> Batch:
        """The last training batch; before the first step, the first training examples."""
        return self._batch(self._last)

    def _batch(self, indices: Any) -> Batch:
        return self.evaluator.task.train.batch(indices).to(self.streams.device)

    def advance(self, selections: Sequence[Selection], steps: int) -> list[StepMetrics[float]]:
        """Takes up to `steps` optimizer steps, each student under its own selection; synchronises the device once.

        Raises:
            ValueError: if the budget is used up.
            InputError: if a teacher answered NaN or infinity.
            KeyError: if a selection contains an unknown knowledge type.
        """
        steps = min(steps, self.steps - self.counts.steps_done)
        if steps < 1:
            raise ValueError(f"there is no step to take: {self.counts.steps_done} of {self.steps} are done")
        reports, asked = [], []
        mixture = self.distiller.mixture(selections)
        self.distiller.begin_phase()
        with self.streams.dropping():
            for _ in range(steps):
                drawn = [self.order.next() for _ in range(self.accumulate)]
                indices = [self._group.share(those) for those in drawn]
                batches = [self._batch(those) for those in indices]
                self._announce(indices)
                self.counts.count(batches, selections, self.distiller)
                reports.append(self.distiller.step(batches, mixture))
                asked += indices
                self._last = drawn[-1]
        self.counts.steps_done += len(reports)
        shares = zip(*self._group.gather(means(reports)), strict=True)  # by student, then by process
        found = [_alone(_averaged(those), selection) for those, selection in zip(shares, selections, strict=True)]
        flush(self.distiller.teachers, self.counts.costs)
        self._blame(found, selections, asked)
        return found

    def _announce(self, batches: Sequence[Any]) -> None:
        """Announces the batches of this step, and the known ones of the next step, to the caches."""
        if any(one.ahead is not None for one in self._caches):
            ids, lengths = self.evaluator.task.train.ids, self.evaluator.task.train.read_lengths
            following = [self._group.share(indices) for indices in self.order.ahead(self.accumulate)]
            for one in self._caches:
                one.announce([(ids[indices], lengths[indices]) for indices in (*batches, *following)])

    def _blame(
        self, reports: Sequence[StepMetrics[float]], selections: Sequence[Selection], asked: Sequence[Any]
    ) -> None:
        """If a student has just diverged, checks the teachers' outputs for NaN or infinity."""
        lost = {i for i, report in enumerate(reports) if not report.finite}
        if lost - self._lost:
            names = {name for i in lost - self._lost for name in selections[i].chosen}
            chosen = [one for name, one in self.distiller.knowledge.items() if name in names]
            self.distiller.raise_on_nonfinite_targets((self._batch(indices) for indices in asked), chosen)
        self._lost |= lost

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Restores the counters.

        Raises:
            ValueError: if they count more steps than the budget, or other students.
        """
        self.counts.load_counters(counters, self.steps)
        self.evaluator.remembered.resume(self.counts.costs)

    def state_dict(self) -> dict[str, Any]:
        """The complete state of the training: tensors, numbers and names in dicts and lists."""
        return {
            "counters": self.counts.counters(),
            "streams": self.streams.state_dict(),
            "order": self.order.state_dict(),
            "last": torch.from_numpy(self._last),
            "distiller": self.distiller.state_dict(),
            "lost": sorted(self._lost),
            "caches": [one.state_dict() for one in self._caches],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`; call it before the first step."""
        self.load_counters(copy.deepcopy(state["counters"]))
        self.streams.load_state_dict(state["streams"])
        self.order.load_state_dict(state["order"])
        self._last = self.order.indices(state["last"])
        self.distiller.load_state_dict(state["distiller"])
        self._lost = set(state.get("lost", ()))
        for cached, saved in zip(self._caches, state.get("caches", ()), strict=False):
            cached.load_state_dict(saved)


def _averaged(shares: Sequence[StepMetrics[float]]) -> StepMetrics[float]:
    """The mean of the processes' metrics."""
    columns = zip(*(share.numbers for share in shares), strict=True)
    return shares[0].of(sum(column) / len(column) for column in columns)


def _alone(report: StepMetrics[float], selection: Selection) -> StepMetrics[float]:
    """The metrics without the losses that only other students selected."""
    return replace(report, losses={name: report.losses[name] for name in selection.chosen})


class Trained(Training):
    """A training that a `Trainer` executes: the interface for callers and environments."""

    def _take(self, trainer: Trainer) -> None:
        self.trainer, self.evaluator = trainer, trainer.evaluator
        self.counts, self.costs = trainer.counts, trainer.counts.costs

    @property
    def steps_done(self) -> int:
        """Optimizer steps that each student has taken."""
        return self.counts.steps_done

    @replayable("measure_teacher")
    def measure_teacher(self, split: Split, name: str) -> EvalResult:
        """Evaluates the teacher on a split; its logits are computed once."""
        return self.evaluator.measure_teacher(split, name)

    def facts(self) -> Facts | None:
        """Facts about the setting before the first step; computed once and shared with forks.

        None without a teacher, for a language model, and for a student without readable hidden states.
        """
        return self.evaluator.remember(self._inspect())

    @replayable("inspect", collective=False)
    def _inspect(self) -> Facts | None:
        known = self.evaluator.remembered.facts
        return known[0] if known else self.probe()

    @replayable("probe", logged=False)
    def probe(self) -> Facts | None:
        """Computes the facts again, with a student initialised from seed 0; they are the same for every seed."""
        return self.evaluator.probe()

    def reduce_costs(self) -> None:
        """Adds the counters of all ranks to those of rank 0."""
        self.counts.reduce_costs(self.group)

    def counters(self) -> dict[str, Any]:
        """The counters that callers read between two calls."""
        return self.counts.counters()

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Restores the counters.

        Raises:
            ValueError: if they count more steps than the budget, or other students.
        """
        self.trainer.load_counters(counters)
