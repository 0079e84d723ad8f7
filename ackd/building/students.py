"""Builds students for a task without teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ackd import models, tasks
from ackd.building.checks import check_classes, check_device
from ackd.building.sources import (
    Source,
    StudentSource,
    begins_as_model,
    find_tokenizer,
    model_of,
    seen_by,
    shown,
    student_of,
    task_of,
    teacher_of,
    tokenizer_of,
)
from ackd.config import DataConfig, ModelConfig, checked, cut
from ackd.errors import InputError
from ackd.models import StudentFactory, Tokenizer
from ackd.numerics.memory import reuse_memory
from ackd.tasks.data_sets import Data


@dataclass(frozen=True, kw_only=True)
class _Config(DataConfig, ModelConfig):
    """The settings of `students`."""


def students(
    *,
    task: str,
    students: Sequence[StudentSource] = (),
    teacher: Source | None = None,
    tokenizer: Tokenizer | None = None,
    data: Data | None = None,
    dev_data: Data | None = None,
    compute_metrics: tasks.ComputeMetrics | None = None,
    **settings: Any,
) -> tuple[tasks.Task, list[StudentFactory]]:
    """A task and factories of students for it; all students share one tokenizer.

    Args:
        task: see `prepare`.
        students: one source per student.
        teacher: a model that provides layers and tokenizer; it gives no targets.
        tokenizer: the tokenizer of models that are given as objects.
        data: see `prepare`.
        dev_data: see `prepare`.
        compute_metrics: see `prepare`.
        **settings: fields of `DataConfig` and `ModelConfig`.

    Raises:
        InputError: if an argument is invalid, or the arguments do not fit together.
    """
    config = checked(_Config, settings)
    reuse_memory()
    columns = config.text_columns, config.label_column
    spec = tasks.spec_of(task, data=data, text_columns=columns[0], label_column=columns[1])
    tasks.check_labels(spec, "this command")
    teachers = [] if teacher is None else [teacher]
    own = next((one for one in students if begins_as_model(one)), None)
    its = find_tokenizer(task, teachers, own, tokenizer)
    first = None
    if teacher is not None:
        model = model_of(teacher_of(teacher, str(check_device(config.device)), config.precision, tokenizer)[0])
        assert model is not None
        first = model, shown(teacher)
        if config.student_layers is not None:
            check_classes(spec, *first, own_data=tasks.is_own(data, *columns))
    for one in students:
        if begins_as_model(one) and not models.same_vocabulary(tokenizer_of(one, tokenizer), its):
            raise InputError(f"the tokenizers of {teacher or own} and {one} differ: take models of one tokenizer")
    factories = [
        student_of(one, config.student_layers, first, its, spec.num_labels, config.student_init)[0]
        for one in students or (None,)
    ]
    seen = seen_by(teachers, students, config.reward_from)
    its_task = task_of(task, its, data=data, dev_data=dev_data, seen=seen, **cut(config))
    return its_task.judged_by(compute_metrics), factories
