"""One student's training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import Meter, StudentFactory
from ackd.numerics.streams import RngStreams
from ackd.stages import Stage, stage_at
from ackd.tasks import Split, Task
from ackd.teachers import LabelTeacher, unwrap
from ackd.training.counts import Counts
from ackd.training.distiller import Distiller
from ackd.training.evaluation import Evaluator, Remembered
from ackd.training.recipe import Recipe
from ackd.training.replay import replayable
from ackd.training.sampler import LengthGroupedSampler
from ackd.training.student import DEFAULT, Student
from ackd.training.trainer import Trained, Trainer
from ackd.types import EvalResult, Knowledge, Selection, StepMetrics, Teacher
from ackd.weighting.scores import TopFraction
from ackd.weighting.weighting import Weighting

LARGEST_BATCH = 2**16  # examples


class Distillation(Trained):
    """One student's training from a seed: `reset`, then `advance` until the budget is used.

    Args:
        task: the data.
        teachers: sources of targets; empty means labels only. The first non-label teacher is the reference of
            rewards and reports.
        make_student: returns a new student, initialised from torch's generator.
        make_knowledge: returns the knowledge types; their new projections are initialised from torch's generator.
        stages: a published method's schedule of transfers; empty if a policy selects.
        steps: the budget in optimizer steps.
        batch_size: examples in a batch.
        accumulate: batches whose gradients make one optimizer step.
        lr: peak learning rate.
        recipe: the other settings of the optimizer and the learning rate schedule.
        teacher_weights: weight of each teacher's losses; 1 if not given.
        scale_steps: batches over which the scales of the knowledge losses are estimated; 0 disables scaling.
        make_weighting: returns a new weighting of examples for each student, initialised from torch's generator. It
            selects the examples of each loss and their weights. None: all examples, each with weight 1.
        example_filter: selects the part of each batch that the student learns from. None: the whole batch.
        prepared: costs before the first step (e.g. choosing examples); added to every student's costs.
        device: of student and teachers.
        precision: of the student's passes.
        compiled: whether to compile the student's passes.
        cosines: whether to compare the gradients of knowledge types and labels at the first step of each `advance`.

    Raises:
        InputError: if a number is not above 0, or gradients cannot be compared.
    """

    def __init__(
        self,
        task: Task,
        teachers: Sequence[Teacher],
        make_student: StudentFactory,
        make_knowledge: Callable[[], Sequence[Knowledge]] = tuple,
        *,
        stages: Sequence[Stage] = (),
        steps: int,
        batch_size: int = 32,
        accumulate: int = 1,
        lr: float = 5e-5,
        recipe: Recipe = DEFAULT,
        teacher_weights: Sequence[float] = (),
        scale_steps: int = 10,
        make_weighting: Callable[[], Weighting | None] | None = None,
        example_filter: TopFraction | None = None,
        prepared: CostTracker | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        compiled: bool = False,
        cosines: bool = False,
    ) -> None:
        numbers = {"steps": steps, "batch size": batch_size, "batches of a step": accumulate, "learning rate": lr}
        for name, value in numbers.items():
            if not value > 0:
                raise InputError(f"the {name} must be above 0, got {value}")
        if batch_size > LARGEST_BATCH:
            raise InputError(f"the batch size must be at most {LARGEST_BATCH}, got {batch_size}")
        if cosines and compiled:
            raise InputError("compiled passes keep nothing to compare gradients with: leave one of the two away")
        self.cosines = cosines
        self.task, self.teachers = task, tuple(teachers)
        # without its cache, because it is evaluated on splits that no cache contains
        asked = [unwrap(one) for one in self.teachers]
        self.reference = next((one for one in asked if not isinstance(one, LabelTeacher)), None)
        self._make_student, self._make_knowledge = make_student, make_knowledge
        self.stages = tuple(stages)
        self.steps, self.batch_size, self.accumulate = steps, batch_size, accumulate
        self.lr, self.recipe = lr, recipe
        self.teacher_weights, self.scale_steps = teacher_weights, scale_steps
        self._make_weighting, self.example_filter = make_weighting, example_filter
        self.prepared = prepared or CostTracker()
        self.device, self.precision, self.compiled = torch.device(device), precision, compiled
        self._remembered = Remembered(parts={1.0: task.reward})  # shared by forks and cohorts
        with RngStreams(0).initialising():
            self._meter = Meter(make_student())
        self._begin(0)

    @replayable("reset")
    def reset(self, seed: int) -> None:
        """Starts a new student; `seed` determines all random numbers of its training."""
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        self._take(self.begun([seed]))
        self.student, self.distiller = self.trainer.student, self.trainer.distiller

    def begun(self, seeds: Sequence[int], stack: Callable[[Sequence[Student]], Student] | None = None) -> Trainer:
        """Creates new students, one per seed; data order and dropout follow from the first seed.

        Args:
            seeds: one seed, or several if the students are stacked.
            stack: combines several students into one; their passes are not compiled.
        """
        streams = [RngStreams(seed, self.device, self.group.rank) for seed in seeds]
        made = [self._made(one, compiled=self.compiled and stack is None) for one in streams]
        student = made[0][0] if stack is None else stack([one for one, *_ in made])
        _, knowledge, weighting = made[0]
        counts = Counts(seeds, self.prepared, listed=stack is not None)
        distiller = Distiller(
            student,
            self.teachers,
            knowledge,
            meter=self._meter,
            costs=counts.costs,
            teacher_weights=self.teacher_weights,
            scale_steps=self.scale_steps,
            weighting=weighting,
            example_filter=self.example_filter,
            precision=self.precision,
            cosines=self.cosines,
            scale_labels=self.task.spec.sentences,
        )
        evaluator = Evaluator(
            self.task,
            student,
            self.reference,
            self._remembered,
            meter=self._meter,
            costs=counts.costs,
            precision=self.precision,
            device=self.device,
            make_student=self._make_student,
            epochs=self.steps * self.batch_size * self.accumulate / len(self.task.train),
        )
        order = LengthGroupedSampler(self.task.train.lengths, self.batch_size, streams[0].order)
        return Trainer(distiller, evaluator, counts, streams[0], order, self.steps, self.accumulate)

    def _made(self, streams: RngStreams, *, compiled: bool) -> tuple[Student, list[Knowledge], Weighting | None]:
        with streams.initialising():
            model = self._make_student().to(self.device)
            knowledge = [one.to(self.device) for one in self._make_knowledge()]
            weighting = self._make_weighting() if self._make_weighting is not None else None
        how: dict[str, Any] = {"steps": self.steps, "lr": self.lr, "recipe": self.recipe, "group": self.group}
        return Student(model, knowledge, compiled=compiled, **how), knowledge, weighting

    def staged(self, steps_done: int) -> Selection:
        """The selection of the current stage after `steps_done` steps; can be passed to `distill`."""
        return self.stages[stage_at(self.stages, steps_done / self.steps)].selection

    @replayable("advance")
    def advance(self, selection: Selection, steps: int) -> StepMetrics[float]:
        """Takes up to `steps` optimizer steps under one selection, within the budget.

        The device is synchronised once.

        Raises:
            ValueError: if the budget is used up.
            InputError: if a teacher answered NaN or infinity.
        """
        return self.trainer.advance([selection], steps)[0]

    @replayable("measure")
    def evaluate(self, split: Split, name: str) -> EvalResult:
        """Evaluates the student on a split; `name` identifies the split, and 'reward' is the reward split."""
        return self.evaluator.evaluate(split, name)[0]

    @replayable("represent", collective=False)
    def represent(self) -> tuple[list[float], list[float]]:
        """The mean first-token output of the last layer over the last batch: (student, first teacher).

        Before the first step, the batch consists of the first training examples.

        Raises:
            InputError: if there is no teacher.
        """
        return self.evaluator.represent(self.trainer.last, self.teachers[0])

    @replayable("state_dict", logged=False)
    def state_dict(self) -> dict[str, Any]:
        """The complete state of the training: tensors, numbers and names in dicts and lists."""
        state = self.trainer.state_dict()
        if self.group.size > 1:
            state["dropout"] = self.group.gather(state["streams"]["dropout"])
        return state

    @replayable("load_state_dict", logged=False)
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict` of a distillation with the same arguments.

        Raises:
            InputError: if it was saved with another number of processes.
        """
        dropout = state.get("dropout", [state["streams"]["dropout"]])
        if len(dropout) != self.group.size:
            raise InputError(
                f"the run was one of {len(dropout)} processes, and now there are {self.group.size}: resume it with as "
                "many as it had, or start it anew"
            )
        self._begin(state["counters"]["seed"])
        self.trainer.load_state_dict({**state, "streams": {**state["streams"], "dropout": dropout[self.group.rank]}})
        if self.group.rank:
            self.counts.clear()

    def fork(self) -> Distillation:
        """An independent copy of the training in its present state; data and teachers are shared.

        Raises:
            ValueError: if a log is being replayed (there is no student to copy), or if several processes train it.
        """
        if self.group.size > 1:
            raise ValueError("a training that several processes share cannot be forked")
        if self.replay_log is not None and self.replay_log.replaying:
            raise ValueError("a training that is being replayed cannot be forked")
        twin = copy.copy(self)
        twin.replay_log = None
        twin.load_state_dict(self.state_dict())
        return twin
