"""Training of many students at once, with shared batches and teacher outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ackd.cohort.stacked import Stacked
from ackd.errors import InputError
from ackd.models import Model
from ackd.tasks import Split
from ackd.training.distillation import Distillation
from ackd.training.replay import replayable
from ackd.training.trainer import Trained
from ackd.types import EvalResult, Selection, StepMetrics


class Cohort(Trained):
    """Trains N students in one batched step, each as a separate `Distillation` on the same batches would.

    Each student has its own initialisation, selection, dropout masks, scales and moments. A type that one student
    selects is computed for all, and weighted per student. The students' passes are not compiled.

    Costs count teacher outputs once per batch, and the students' passes and losses N times. A step, and a pass over a
    split, count as one.

    Args:
        distillation: provides data, teachers and settings; it is not changed.
        students: N.

    Raises:
        InputError: if N is below 1, examples are filtered or weighted, or gradients are compared.
    """

    def __init__(self, distillation: Distillation, students: int) -> None:
        if students < 1:
            raise InputError(f"a cohort needs at least 1 student, got {students}")
        if distillation.distiller.picks:
            raise InputError(
                "students of a cohort learn from the same examples, and here each picks or weighs its own: train them "
                "one by one (leave --students away)"
            )
        if distillation.cosines:
            raise InputError(
                "the gradients of a cohort's students are not compared: leave --gradient-cosines or --students away"
            )
        self.distillation, self.size, self.steps = distillation, students, distillation.steps
        self._begin(range(students))

    @replayable("reset")
    def reset(self, seeds: Sequence[int]) -> None:
        """Starts new students, one per seed; data order and dropout follow from the first seed.

        Raises:
            InputError: if the number of seeds is not N.
        """
        self._begin(seeds)

    def _begin(self, seeds: Sequence[int]) -> None:
        self._check(seeds, "seed")
        self._take(self.distillation.begun([int(seed) for seed in seeds], Stacked))

    def _check(self, given: Sequence[Any], what: str) -> None:
        if len(given) != self.size:
            raise InputError(f"a cohort of {self.size} needs one {what} a student, got {len(given)}")

    @property
    def stacked(self) -> Stacked:
        """The stacked students."""
        assert isinstance(self.trainer.student, Stacked)
        return self.trainer.student

    def model(self, student: int) -> Model:
        """One student's model, for saving; it shares the cohort's weights, so later steps change it."""
        return self.stacked.students[student].model

    def projections(self, student: int) -> nn.ModuleList:
        """One student's projections, in the order of the knowledge types; they share the cohort's weights too."""
        return self.stacked.students[student].projections

    @replayable("advance", each=True)
    def advance(self, selections: Sequence[Selection], steps: int) -> list[StepMetrics[float]]:
        """Takes up to `steps` optimizer steps, each student under its own selection; synchronises the device once.

        Raises:
            ValueError: if the budget is used up.
            InputError: if the number of selections is not N, or a teacher answered NaN or infinity.
            KeyError: if a selection contains an unknown knowledge type.
        """
        self._check(selections, "selection")
        return self.trainer.advance(selections, steps)

    @replayable("inherit")
    def inherit(self, parents: Sequence[int]) -> None:
        """Replaces each student by a copy of its parent: weights, moments, scales and costs.

        Args:
            parents: the index of each student's parent; a student that is its own parent stays unchanged.

        Raises:
            InputError: if the number of parents is not N.
            IndexError: if a parent does not exist.
        """
        self._check(parents, "parent")
        if wrong := [parent for parent in parents if not 0 <= parent < self.size]:
            raise IndexError(f"there is no student {wrong[0]} among {self.size}")
        self.stacked.inherit(parents)
        self.trainer.inherit(parents)

    @replayable("measure", each=True)
    def evaluate(self, split: Split, name: str) -> list[EvalResult]:
        """Evaluates each student on a split; `name` identifies the split, and 'reward' is the reward split."""
        return self.evaluator.evaluate(split, name)

    def state_dict(self) -> dict[str, Any]:
        """The complete state of the training: tensors, numbers and names in dicts and lists."""
        return self.trainer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict` of a cohort with the same arguments and number of students."""
        self._begin(state["counters"]["seeds"])
        self.trainer.load_state_dict(state)
