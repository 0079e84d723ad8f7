"""The steps of a training, of one student or of several side by side."""

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
from ackd.teachers import flush
from ackd.training.counts import Counts
from ackd.training.distiller import Distiller
from ackd.training.evaluation import Evaluator
from ackd.training.replay import Training, replayable
from ackd.training.sampler import LengthGroupedSampler
from ackd.types import Batch, EvalResult, Selection, StepMetrics, means


@dataclass
class Trainer:
    """Students under way: each batch and each teacher's answer serve all of them."""

    distiller: Distiller  # takes the steps
    evaluator: Evaluator  # measures the same students
    counts: Counts
    streams: RngStreams  # of their dropout and order
    order: LengthGroupedSampler  # in which the examples come
    steps: int  # the budget
    accumulate: int  # batches whose gradients make one optimizer step

    def __post_init__(self) -> None:
        self.student, self._group = self.distiller.student, self.distiller.student.group
        self._last = np.arange(min(self.order.size, len(self.order.lengths)))  # the places learned from last
        self._lost: set[int] = set()  # students that diverged, for which the teachers have been looked at

    def inherit(self, parents: Sequence[int]) -> None:
        """Makes each student what another is now, or itself, in scales and costs; [N] places."""
        self.distiller.scales.inherit(parents)
        self.counts.prices = [self.counts.prices[parent] for parent in parents]
        self._lost = {i for i, parent in enumerate(parents) if parent in self._lost}

    @property
    def last(self) -> Batch:
        """The batch that was learned from last, or the first examples before the first step."""
        return self._batch(self._last)

    def _batch(self, indices: Any) -> Batch:
        return self.evaluator.task.train.batch(indices).to(self.streams.device)

    def advance(self, selections: Sequence[Selection], steps: int) -> list[StepMetrics[float]]:
        """Takes up to `steps` optimizer steps, each student under its own selection; one wait for the device.

        Raises:
            ValueError: if the budget is used up.
            InputError: if a teacher answered NaN or infinity.
            KeyError: if a selection names a type that there is not.
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
                self.counts.count(batches, selections, self.distiller)
                reports.append(self.distiller.step(batches, mixture))
                asked += indices
                self._last = drawn[-1]
        self.counts.steps_done += len(reports)
        shares = zip(*self._group.gather(means(reports)), strict=True)  # of each student what each process has
        found = [_alone(_averaged(those), selection) for those, selection in zip(shares, selections, strict=True)]
        flush(self.distiller.teachers, self.counts.costs)
        self._blame(found, selections, asked)
        return found

    def _blame(
        self, reports: Sequence[StepMetrics[float]], selections: Sequence[Selection], asked: Sequence[Any]
    ) -> None:
        """Looks at the teachers' answers where a student has just diverged."""
        lost = {i for i, report in enumerate(reports) if not report.finite}
        if lost - self._lost:
            names = {name for i in lost - self._lost for name in selections[i].chosen}
            chosen = [one for name, one in self.distiller.knowledge.items() if name in names]
            self.distiller.raise_on_nonfinite_targets((self._batch(indices) for indices in asked), chosen)
        self._lost |= lost

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Sets them.

        Raises:
            ValueError: if they are of more steps than there are, or of other students.
        """
        self.counts.load_counters(counters, self.steps)
        self.evaluator.remembered.resume(self.counts.costs)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors, numbers and names in dicts and lists."""
        return {
            "counters": self.counts.counters(),
            "streams": self.streams.state_dict(),
            "order": self.order.state_dict(),
            "last": torch.from_numpy(self._last),
            "distiller": self.distiller.state_dict(),
            "lost": sorted(self._lost),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, before the first step."""
        self.load_counters(copy.deepcopy(state["counters"]))
        self.streams.load_state_dict(state["streams"])
        self.order.load_state_dict(state["order"])
        self._last = self.order.indices(state["last"])
        self.distiller.load_state_dict(state["distiller"])
        self._lost = set(state.get("lost", ()))


def _averaged(shares: Sequence[StepMetrics[float]]) -> StepMetrics[float]:
    """The mean of what each process has seen of a step."""
    columns = zip(*(share.numbers for share in shares), strict=True)
    return shares[0].of(sum(column) / len(column) for column in columns)


def _alone(report: StepMetrics[float], selection: Selection) -> StepMetrics[float]:
    """The report without the losses that others selected."""
    return replace(report, losses={name: report.losses[name] for name in selection.chosen})


class Trained(Training):
    """A training as people and environments have it, which a trainer carries out."""

    def _take(self, trainer: Trainer) -> None:
        self.trainer, self.evaluator = trainer, trainer.evaluator
        self.counts, self.costs = trainer.counts, trainer.counts.costs

    @property
    def steps_done(self) -> int:
        """Optimizer steps that each student has taken."""
        return self.counts.steps_done

    @replayable("measure_teacher")
    def measure_teacher(self, split: Split, name: str) -> EvalResult:
        """How the teacher does on a split: one pass, then remembered."""
        return self.evaluator.measure_teacher(split, name)

    def facts(self) -> Facts | None:
        """What is known of the setting before the first step: asked about once, then remembered, forks included.

        None without a teacher, for a language model, and for a student that shows no states.
        """
        return self.evaluator.remember(self._inspect())

    @replayable("inspect", collective=False)
    def _inspect(self) -> Facts | None:
        known = self.evaluator.remembered.facts
        return known[0] if known else self.probe()

    @replayable("probe", logged=False)
    def probe(self) -> Facts | None:
        """The facts, asked about anew, of the student that seed 0 initialises: every seed has the same."""
        return self.evaluator.probe()

    def reduce_costs(self) -> None:
        """Adds what the other processes counted to the counts of the first one."""
        self.counts.reduce_costs(self.group)

    def counters(self) -> dict[str, Any]:
        """The plain numbers that are read between two calls."""
        return self.counts.counters()

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Sets them.

        Raises:
            ValueError: if they are of more steps than there are, or of other students.
        """
        self.trainer.load_counters(counters)
