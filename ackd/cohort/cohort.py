"""Many students at once: each batch and each teacher's answer serves them all."""

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
    """N students, each as a `Distillation` of its own would train it on the same batches, in one batched step.

    Each has its own initialisation, selection, dropout masks, scales and moments. What anybody selects is computed for
    everybody, and weighted by each one's own weight. The students' passes are not compiled.

    Costs count a teacher's answer once a batch, and the students' passes and losses N times; a step and a pass
    over a split count as one.

    Args:
        distillation: what to train, with which teachers and numbers; it is left alone.
        students: N.

    Raises:
        InputError: if there is no student, the students pick or weigh examples, or gradients are to be compared.
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
        """New students before their first step, one a seed; order and dropout follow from the first seed.

        Raises:
            InputError: if there are not as many seeds as students.
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
        """The students."""
        assert isinstance(self.trainer.student, Stacked)
        return self.trainer.student

    def model(self, student: int) -> Model:
        """One student's model, for saving; it shares the cohort's weights, so later steps change it."""
        return self.stacked.students[student].model

    def projections(self, student: int) -> nn.ModuleList:
        """One student's projections, in the order of the knowledge types; they share the cohort's weights likewise."""
        return self.stacked.students[student].projections

    @replayable("advance", each=True)
    def advance(self, selections: Sequence[Selection], steps: int) -> list[StepMetrics[float]]:
        """Takes up to `steps` optimizer steps, each student under its own selection; one wait for the device.

        Raises:
            ValueError: if the budget is used up.
            InputError: if there are not as many selections as students, or a teacher answered NaN or infinity.
            KeyError: if a selection names a type that there is not.
        """
        self._check(selections, "selection")
        return self.trainer.advance(selections, steps)

    @replayable("inherit")
    def inherit(self, parents: Sequence[int]) -> None:
        """Makes each student what another is now, or itself: weights, moments, scales, and what it has cost so far.

        Args:
            parents: the place of each one's parent; a student that is its own stays as it is.

        Raises:
            InputError: if there are not as many parents as students.
            IndexError: if there is no such student.
        """
        self._check(parents, "parent")
        if wrong := [parent for parent in parents if not 0 <= parent < self.size]:
            raise IndexError(f"there is no student {wrong[0]} among {self.size}")
        self.stacked.inherit(parents)
        self.trainer.inherit(parents)

    @replayable("measure", each=True)
    def evaluate(self, split: Split, name: str) -> list[EvalResult]:
        """How each student does on a split; `name` tells the splits apart, and 'reward' is the agent's."""
        return self.evaluator.evaluate(split, name)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors, numbers and names in dicts and lists."""
        return self.trainer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of a cohort of as many students with the same arguments."""
        self._begin(state["counters"]["seeds"])
        self.trainer.load_state_dict(state)
