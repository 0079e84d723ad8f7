"""Whether what the user named fits together; every refusal says what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

import torch

from ackd import models, tasks
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import Knowledge


def check_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: if there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {reprlib.repr(name)}: use cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {name!r} here: torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return device


def check_classes(spec: tasks.TaskSpec, model: Model, source: str, *, own_data: bool) -> None:
    """Compares a model's classes with a task's.

    Raises:
        InputError: if they differ in number, in order, or (for a user's own data) in name.
    """
    if model.config.num_labels != spec.num_labels:
        kind = "a regression" if spec.regression else f"{spec.num_labels} classes"
        raise InputError(
            f"the teacher {source} has {model.config.num_labels} outputs, but {spec.name} is {kind}: "
            "give a teacher that was fine-tuned on this task (ackd finetune)"
        )
    names = [name.lower() for name in models.class_names(model)]
    wanted = [name.lower() for name in spec.classes]
    if not names or names == wanted or all(name.isdigit() for name in wanted):
        return
    if set(names) == set(wanted):
        raise InputError(
            f"the teacher {source} orders its classes {', '.join(names)}, but {spec.name} has {', '.join(wanted)}: "
            "distilling would swap them; fine-tune a teacher on this task's labels"
        )
    strangers = [name for name in wanted if name not in names]
    if own_data and strangers:
        raise InputError(
            f"the label {strangers[0]!r} of {spec.name} is outside the teacher's classes ({', '.join(names)}): "
            "give a teacher that was fine-tuned on these labels"
        )


def check_outputs(
    teachers: Sequence[Model], student: Model, knowledge: Sequence[Knowledge], preset: str | None = None
) -> None:
    """Asks each model, once, for what each knowledge type will need of it.

    A teacher behind those that are named is a method's own, made to answer what it is asked.

    Args:
        teachers: those that were named.
        student: as it begins.
        knowledge: all types that can be selected.
        preset: the published method whose own types they are, if they are one's.

    Raises:
        InputError: if one cannot give it.
    """
    failing: dict[str, str] = {}
    for one in knowledge:
        asked = [("student", student, one.student_needs)]
        if one.teacher < len(teachers):
            asked.insert(0, ("teacher", teachers[one.teacher], one.teacher_needs))
        for who, model, needs in asked:
            reason = models.cannot_give(model, needs)
            if reason:
                failing.setdefault(one.name, f"{reason}, which {one.name!r} needs of the {who}")
    if not failing:
        return
    left = [one.name for one in knowledge if one.name not in failing]
    way = f"transfer the others alone (--knowledge {' '.join(left)})" if left else "transfer others, such as logits"
    if preset is not None:
        way = f"take another preset than {preset!r}, or other models, such as bert"
    raise InputError(f"{next(iter(failing.values()))}: {way}")
