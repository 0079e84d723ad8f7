"""Where models, tokenizers and data are found by their names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from ackd import models, tasks
from ackd.building.checks import check_classes, check_device
from ackd.errors import InputError
from ackd.models import Init, Model, StudentFactory, Tokenizer
from ackd.numerics.memory import reuse_memory
from ackd.numerics.precision import Precision
from ackd.teachers import ModelTeacher
from ackd.types import Shape

logger = logging.getLogger("ackd")


def students(
    *,
    task: str,
    students: Sequence[str] = (),
    teacher: str | None = None,
    student_layers: int | None = None,
    student_init: Init = "even",
    device: str = "cpu",
    precision: Precision = "fp32",
    data: str | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    data_seed: int = 0,
    **cut: Any,
) -> tuple[tasks.Task, list[StudentFactory], Tokenizer]:
    """A task and what makes students for it, where nobody else answers, with the tokenizer that all of them share.

    Args:
        task: as `prepare` takes it, and the rest likewise.
        students: one folder, hub id or JSON config for each student.
        teacher: whose layers and tokenizer a student takes; it answers nothing.
        student_layers: the one student starts as so many of its layers.
        student_init: as the rest.
        device: cpu, cuda or cuda:1.
        precision: fp32 | bf16.
        data: as the rest.
        text_columns: as the rest.
        label_column: as the rest.
        data_seed: as the rest.
        **cut: dev_data, max_examples, reward_examples, reward_from, max_length.

    Raises:
        InputError: if any of it cannot work, in one sentence.
    """
    reuse_memory()
    place = check_device(device)
    spec = tasks.spec_of(task, data=data, text_columns=text_columns, label_column=label_column)
    own = next((one for one in students if not one.endswith(".json")), None)
    tokenizer = find_tokenizer(task, [teacher] if teacher is not None else [], own)
    first = (teacher_of(teacher, str(place), precision)[0].model, teacher) if teacher is not None else None
    if first is not None and student_layers is not None:
        check_classes(spec, first[0], first[1], own_data=bool(text_columns))
    for one in students:
        if not one.endswith(".json") and not models.same_vocabulary(models.load_tokenizer(one), tokenizer):
            raise InputError(f"the tokenizers of {teacher or own} and {one} differ: take models of one tokenizer")
    factories = [
        student_of(one, student_layers, first, tokenizer, spec.num_labels, student_init)[0]
        for one in students or (None,)
    ]
    source = {"data": data, "text_columns": tuple(text_columns), "label_column": label_column, "seed": data_seed}
    seen = seen_by([teacher] if teacher is not None else [], students, cut.get("reward_from", tasks.TRAIN))
    return task_of(task, tokenizer, seen=seen, **source, **cut), factories, tokenizer


def student_of(
    source: str | None,
    layers: int | None,
    teacher: tuple[Model, str] | None,
    tokenizer: Tokenizer,
    num_labels: int,
    init: Init = "even",
) -> tuple[StudentFactory, Shape]:
    """The student's factory and sizes; `teacher` is the first that was named, and its name.

    Raises:
        InputError: if there can be no such student.
    """
    if layers is None and init != "even":
        raise InputError("--student-init says which layers a student starts as: give --student-layers with it")
    if source is None:
        if layers is None:
            raise InputError("say what the student is: --student-layers, or --student, or both")
        if teacher is None:
            raise InputError("--student-layers are those of a teacher, and none was named: give --student instead")
        make = models.from_layers(teacher[0], layers, init)
    elif source.endswith(".json"):
        if layers is not None:
            raise InputError(f"{source} says how many layers the student has: leave --student-layers away")
        make = models.from_config(models.read_config(source, num_labels))
    else:
        make = models.from_checkpoint(source, num_labels)
        if layers is not None:
            make = _layers_of(make, layers, init)
    with torch.random.fork_rng():
        model = make()
    shape = models.shape_of(model)
    if shape.vocabulary < len(tokenizer):
        name = source or (teacher[1] if teacher is not None else None)
        raise InputError(
            f"{name} has a vocabulary of {shape.vocabulary}, less than the {len(tokenizer)} tokens of the tokenizer: "
            "take a model and a tokenizer that were made for each other"
        )
    return models.padding_with(make, models.padding_of(model, tokenizer)), shape


def _layers_of(whole: StudentFactory, count: int, init: Init) -> StudentFactory:
    """Students cut from a checkpoint that is read for each, since it may have a head to draw anew."""
    return lambda: models.from_layers(whole(), count, init)()


def find_tokenizer(task: str, teachers: Sequence[str], student: str | None) -> Tokenizer:
    """The first teacher's; without a teacher the student's, or that of a generated task where this is a config alone.

    Raises:
        InputError: if there is none.
    """
    if teachers:
        return models.load_tokenizer(teachers[0], padding=True)
    if student is not None and not student.endswith(".json"):
        return models.load_tokenizer(student, padding=True)
    if task not in tasks.EMBEDDED:
        raise InputError(
            f"no teacher was named, nor a student that brings a tokenizer for {task}: "
            "give --teacher, or --student with a folder or a hub id"
        )
    return tasks.embedded_tokenizer(task)


def seen_by(teachers: Sequence[str], starts: Sequence[str | None], reward_from: str) -> tasks.Seen:
    """What the models of a run have been trained on, together; tells of those that do not say.

    Args:
        teachers: who answer, or whose layers students start from.
        starts: models that students start from; those that have no classifier have learned no task yet.
        reward_from: as `prepare` takes it.

    Raises:
        InputError: if what one says is damaged.
    """
    found = []
    models_named = [one for one in starts if one is not None and not one.endswith(".json")]
    for place, source in enumerate(dict.fromkeys([*teachers, *models_named])):
        seen = tasks.read_seen(source)
        if seen is None:
            begun = place < len(teachers) or models.is_classifier(source)
            seen = tasks.UNKNOWN if begun else tasks.NOTHING
        if not seen.complete and reward_from == tasks.TRAIN:
            logger.warning(
                "%s does not say all that it was trained on, so it may know the reward split: take --reward-from "
                "dev:0.5, or a model of ackd finetune",
                source,
            )
        found.append(seen)
    return tasks.together(found)


@lru_cache(maxsize=4)
def teacher_of(source: str, device: str, precision: Precision) -> tuple[ModelTeacher, Tokenizer]:
    """A teacher and its tokenizer; those who name the same share it, since it never changes."""
    model, tokenizer = models.load_model(source, device=device), models.load_tokenizer(source, padding=True)
    models.shape_of(model)
    models.padding_of(model, tokenizer)
    return ModelTeacher(model, precision=precision), tokenizer


@lru_cache(maxsize=4)
def task_of(name: str, tokenizer: Tokenizer, **source: Any) -> tasks.Task:
    """A task, as `ackd.tasks.load` takes it; those who name the same share it, since it never changes."""
    return tasks.load(name, tokenizer, **source)
