"""The teachers and the student of a distillation, with their tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ackd import models, tasks
from ackd.building import language
from ackd.building.checks import check_classes, check_device
from ackd.building.sources import (
    Source,
    StudentSource,
    begins_as_model,
    find_tokenizer,
    model_of,
    shown,
    student_of,
    teacher_of,
    tokenizer_of,
)
from ackd.config import SettingConfig
from ackd.errors import InputError
from ackd.models import Tokenizer
from ackd.tasks.data_sets import Data
from ackd.teachers import OwnTokens
from ackd.types import ModelDims, Teacher


class Cast(NamedTuple):
    """The teachers and the student of a distillation."""

    teachers: list[Teacher]
    tokenizers: list[Tokenizer]  # one per teacher
    tokenizer: Tokenizer  # of the student
    make_student: models.StudentFactory
    shape: ModelDims  # of the student
    spec: tasks.TaskSpec

    @property
    def strangers(self) -> list[int]:
        """The indices of teachers with another vocabulary than the student."""
        return [m for m, its in enumerate(self.tokenizers) if not models.same_vocabulary(its, self.tokenizer)]


def cast_of(
    task: str,
    sources: Sequence[Source],
    student: StudentSource | None,
    tokenizer: Tokenizer | None,
    data: Data | None,
    config: SettingConfig,
) -> Cast:
    """Loads the models of a distillation.

    Raises:
        InputError: if a model does not exist, or does not fit the task or the other models.
    """
    columns = config.text_columns, config.label_column
    spec = tasks.spec_of(task, data=data, text_columns=columns[0], label_column=columns[1])
    teachers: list[Teacher] = []
    tokenizers: list[Tokenizer] = []
    for source in sources:
        place = str(check_device(config.device))
        how = {"sentences": spec.sentences, "language": spec.language}
        teacher, its = teacher_of(source, place, config.precision, tokenizer, **how)
        if (model := model_of(teacher)) is not None and not (spec.sentences or spec.language):
            check_classes(spec, model, shown(source), own_data=tasks.is_own(data, *columns))
        teachers.append(teacher)
        tokenizers.append(its)
    read = _read_by(student, tokenizers, tokenizer) if teachers else find_tokenizer(task, (), student, tokenizer)
    weights = config.teacher_weights
    if len(weights) not in (0, len(teachers)) or not all(weight > 0 for weight in weights):
        raise InputError(f"give one weight above 0 for each of the {len(teachers)} teachers, or none")
    first = model_of(teachers[0]) if teachers else None
    starts = None if first is None else (first, shown(sources[0]))
    pooling = _pooling(first) if spec.sentences else None
    outputs = None if spec.language else spec.num_labels
    make, shape = student_of(
        student, config.student_layers, starts, read, outputs, config.student_init, pooling=pooling
    )
    if spec.language:
        names, sizes = [shown(source) for source in sources], [one.shape.vocabulary for one in teachers]
        language.check_vocabularies(names, tokenizers, sizes, read, shape.vocabulary)
    return Cast(teachers, tokenizers, read, make, shape, spec)


def _pooling(teacher: models.Model | None) -> models.Pooling:
    """The pooling of a student that names none: the first teacher's, or else the mean."""
    known = None if teacher is None else models.pooling_of(teacher.config)
    return known or models.Pooling()


def _read_by(student: StudentSource | None, tokenizers: Sequence[Tokenizer], given: Tokenizer | None) -> Tokenizer:
    """The student's tokenizer: its own if it has one, else the first teacher's."""
    if student is None or not begins_as_model(student):
        return tokenizers[0]
    own = tokenizer_of(student, given)
    return next((its for its in tokenizers if models.same_vocabulary(its, own)), own)


def reading(cast: Cast, load: Callable[[Tokenizer], tasks.Task]) -> tuple[tasks.Task, list[Teacher]]:
    """The task, tokenised for the student and all teachers, and the teachers that read its batches."""
    task, answering = load(cast.tokenizer), list(cast.teachers)
    for m in cast.strangers:
        teacher, its = cast.teachers[m], load(cast.tokenizers[m])
        name = its.train.fingerprint[:16]
        longer = float(its.train.lengths.mean() / task.train.lengths.mean())
        answering[m], task = OwnTokens(teacher, name, longer), task.beside(name, its)
    return task, answering
