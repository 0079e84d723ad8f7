"""What a run prints before its first step: data, length, models, device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from ackd.building.checks import unused_gpus
from ackd.models import Model, shape_of
from ackd.tasks import TRAIN, Task
from ackd.teachers import LabelTeacher, ModelTeacher, OwnTokens, unwrap
from ackd.training.distillation import Distillation
from ackd.types import Teacher

FEW = 50  # with fewer examples, scores hardly separate students


@dataclass(frozen=True)
class Size:
    """The size of a model."""

    layers: int
    parameters: int | None = None  # None for teachers that are not transformers models

    def __str__(self) -> str:
        known = "" if self.parameters is None else f", {self.parameters:,} parameters"
        return f"{self.layers} layer{'s' * (self.layers != 1)}{known}"


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A run's data, length, models and device, in numbers.

    Args:
        train: number of training examples.
        reward: number of examples set aside for rewards, from train or dev.
        reward_from: source of the reward split: train, or dev:PART.
        dev: number of examples of each dev split.
        steps: optimizer steps of each student.
        batch: examples per step.
        student: size of the student.
        teachers: sizes of the teachers.
        device: device of the models.
        unused: number of unused GPUs.
        students: number of students.
        peers: sizes of all students, if they learn from each other.
        workers: number of workers that train students at the same time.
        processes: number of processes that train one student together.
        rewarded: whether rewards or choices depend on the reward split.
        unit: unit of the data, such as examples.
    """

    train: int
    reward: int
    dev: Mapping[str, int]
    steps: int
    batch: int
    student: Size
    device: str
    teachers: tuple[Size, ...] = ()
    reward_from: str = TRAIN
    unused: int = 0
    students: int = 1
    peers: tuple[Size, ...] = ()
    workers: int = 1
    processes: int = 1
    rewarded: bool = True
    unit: str = "examples"

    @classmethod
    def of(cls, training: Distillation, **known: Any) -> Self:
        """Builds it from a prepared training and further facts about the run."""
        teachers = tuple(size_of_teacher(one) for one in asked(training))
        student, batch = size_of(training.student.model), training.batch_size * training.accumulate
        it = cls.on(training.task, training.device, steps=training.steps, batch=batch, student=student)
        return replace(it, teachers=teachers, processes=training.group.size, **known)

    @classmethod
    def on(cls, task: Task, device: torch.device, *, steps: int, batch: int, student: Size) -> Self:
        """Builds it for a student without a teacher, on a task."""
        return cls(
            train=len(task.train),
            reward=len(task.reward),
            reward_from=task.reward_from,
            dev={name: len(split) for name, split in task.dev.items()},
            steps=steps,
            batch=batch,
            student=student,
            device=str(device),
            unused=unused_gpus(device),
            unit="chunks" if task.train.language else "sentences" if task.spec.sentences else "examples",
        )

    @property
    def epochs(self) -> float:
        """How many times a student sees each example: steps x batch / train."""
        return self.steps * self.batch / self.train

    @property
    def lines(self) -> str:
        """Several lines of text, for a run with one setting."""
        models = [f"student: {one}" for one in self.peers or (self.student,)]
        for place, one in enumerate(self.teachers, 1):
            models.append(f"{'teacher' if len(self.teachers) == 1 else f'teacher {place}'}: {one}")
        many = f"{self.students:,} students of " if self.students > 1 else ""
        return "\n".join(
            [
                f"data:    {self._data}",
                f"length:  {many}{self.steps:,} step{'s' * (self.steps != 1)} of {self.batch} {self.unit}: "
                f"{self.epochs:.3g} epoch{'s' * (self.epochs != 1)}{' each' * bool(many)}",
                *models,
                f"device:  {self._where}",
            ]
        )

    @property
    def line(self) -> str:
        """One line of text, for a list of several settings."""
        taught = "".join(f"; teacher {one}" for one in self.teachers)
        return (
            f"{self._data}; {self.steps:,} steps, {self.epochs:.3g} epochs; student {self.student}{taught}; "
            f"{self._where}"
        )

    @property
    def _data(self) -> str:
        dev = ", ".join(f"{count:,} of {name}" for name, count in self.dev.items())
        return f"{self.train:,} {self.unit} to learn from, {self._aside}, {dev} to report on"

    @property
    def _aside(self) -> str:
        if not self.reward:
            return "none set aside for rewards"
        few = ", which tell students hardly apart" * (self.rewarded and self.reward < FEW)
        if self.reward_from != TRAIN:
            return f"{self.reward:,} of dev for rewards ({self.reward_from}){few}"
        return f"{self.reward:,} set aside for rewards (--reward-examples){few}"

    @property
    def _where(self) -> str:
        where = self.device
        for count, who in ((self.workers, "workers"), (self.processes, "processes")):
            where += f", {count} {who}" if count > 1 else ""
        if not self.unused:
            return where
        return f"{where}; {self.unused} GPU{'s' * (self.unused > 1)} unused: --device cuda"


def asked(training: Distillation) -> list[Teacher]:
    """The teachers without their caches; label teachers are left out."""
    return [one for one in map(unwrap, training.teachers) if not isinstance(one, LabelTeacher)]


def model_behind(teacher: Teacher) -> Model | None:
    """The model of a teacher; None if the teacher is not a model."""
    teacher = unwrap(teacher)
    if isinstance(teacher, OwnTokens):
        return model_behind(teacher.model)
    return teacher.model if isinstance(teacher, ModelTeacher) else None


def size_of(model: Model) -> Size:
    """The layers and parameters of a model; shared tensors count once."""
    return Size(shape_of(model).layers, sum(one.numel() for one in model.parameters()))


def size_of_teacher(teacher: Teacher) -> Size:
    """The layers of a teacher, and its parameters if it is a model."""
    model = model_behind(teacher)
    return Size(teacher.shape.layers) if model is None else size_of(model)
