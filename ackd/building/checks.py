"""Checks that the user's models, data and options fit together; each error message gives a remedy."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Sequence

import torch

from ackd import knowledge as kinds
from ackd import models, tasks
from ackd.errors import InputError
from ackd.models import Model
from ackd.types import Batch, Knowledge, OutputRequest, Outputs

logger = logging.getLogger("ackd")


def check_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU if there is one, else the CPU.

    Raises:
        InputError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {reprlib.repr(name)}: use cpu, cuda, cuda:1 or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {name!r} here: torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return device


def unused_gpus(device: torch.device) -> int:
    """The number of idle GPUs while the models are on `device`."""
    return torch.cuda.device_count() if device.type == "cpu" and torch.cuda.is_available() else 0


def check_classes(spec: tasks.TaskSpec, model: Model, source: str, *, own_data: bool) -> None:
    """Compares a model's classes with a task's.

    Raises:
        InputError: if they differ in number, in order, or (for the user's own data) in name.
    """
    _check_number(spec, model, f"the teacher {source}")
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


def class_order(spec: tasks.TaskSpec, model: Model, source: str) -> list[int]:
    """The task's class of each of a model's outputs; matched by name if the names are those of the task.

    Raises:
        InputError: if the number of outputs differs from the task's number of classes.
    """
    _check_number(spec, model, f"the model {source}")
    if spec.regression:
        return [0]
    names, wanted = ([_plain(one) for one in several] for several in (models.class_names(model), spec.classes))
    if sorted(names) == sorted(wanted):
        return [wanted.index(name) for name in names]
    if names and not all(name.isdigit() for name in names):
        logger.warning("%s calls its classes %s: they are taken for %s", source, ", ".join(names), ", ".join(wanted))
    return list(range(spec.num_labels))


def _plain(name: str) -> str:
    """Normalises a class name, because models may use other forms than the hub's GLUE: `Not entailment`."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _check_number(spec: tasks.TaskSpec, model: Model, who: str) -> None:
    if model.config.num_labels != spec.num_labels:
        kind = "a regression" if spec.regression else f"{spec.num_labels} classes"
        raise InputError(
            f"{who} has {model.config.num_labels} outputs, but {spec.name} is {kind}: "
            f"give a {who.split()[1]} that was fine-tuned on this task (ackd finetune)"
        )


def check_whole(source: str, knowledge: Sequence[Knowledge]) -> None:
    """Checks that a teacher with its own tokenizer is used only for outputs per example.

    Raises:
        InputError: if a knowledge type needs outputs per token.
    """
    for one in knowledge:
        if any(field.kind not in ("logits", "cls") for field in one.teacher_needs.fields):
            raise InputError(
                f"the teacher {source} has a tokenizer of its own, and {one.name!r} compares models token by token: "
                "transfer its outputs alone (--knowledge logits, or a preset such as rl-kd), or take a teacher with "
                "the student's tokenizer"
            )


def check_outputs(
    teachers: Sequence[Model | None], student: Model, knowledge: Sequence[Knowledge], preset: str | None = None
) -> None:
    """Tries for each model and knowledge type whether the model can return the needed outputs.

    A teacher index beyond `teachers` belongs to a teacher that the method adds; it is not checked.

    Args:
        teachers: the models of the teachers; None if a teacher is no model (not checked).
        student: the initial student.
        knowledge: all types that can be selected.
        preset: the published method of the types, or None.

    Raises:
        InputError: if a model cannot return an output, or a user-defined type does not return losses.
    """
    failing: dict[str, str] = {}
    for one in knowledge:
        asked = [("student", student, one.student_needs)]
        teacher = teachers[one.teacher] if one.teacher < len(teachers) else None
        if teacher is not None:
            asked.insert(0, ("teacher", teacher, one.teacher_needs))
        for who, model, needs in asked:
            reason = models.cannot_give(model, needs)
            if reason:
                failing.setdefault(one.name, f"{reason}, which {one.name!r} needs of the {who}")
        if teacher is not None and one.name not in failing and not type(one).__module__.startswith("ackd."):
            _check_own(one, teacher, student)
    if not failing:
        return
    left = [one.name for one in knowledge if one.name not in failing]
    way = f"transfer the others alone (--knowledge {' '.join(left)})" if left else "transfer others, such as logits"
    if preset is not None:
        way = f"take another preset than {preset!r}, or other models, such as bert"
    raise InputError(f"{next(iter(failing.values()))}: {way}")


def _check_own(one: Knowledge, teacher: Model, student: Model) -> None:
    """Tries a user-defined knowledge type on three examples of four tokens."""
    ids = torch.zeros(3, 4, dtype=torch.int64)
    labels = ids[:, 0].float() if student.config.num_labels == 1 else ids[:, 0]
    if models.predicts_tokens(student):
        labels = ids
    if models.pools(student):
        labels = torch.zeros(3, models.shape_of(student).classes)
    batch = Batch(ids[:, 0], {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels)
    ours = _answer(student, batch, one.student_needs)
    kinds.check_losses(one, ours, _answer(teacher, batch, one.teacher_needs), batch)


def _answer(model: Model, batch: Batch, needs: OutputRequest) -> Outputs:
    """A model's requested outputs on a batch, on the CPU, where new knowledge types are."""
    with torch.no_grad():
        found = models.run(model, batch.to(model.device), needs)
    return Outputs.of({field: value.cpu() for field, value in found.tensors.items()})
