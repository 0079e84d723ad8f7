"""From names and paths to a distillation that is ready to run, with everything checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ackd import knowledge, models, tasks
from ackd.errors import InputError
from ackd.loop import Distillation
from ackd.models import Model, StudentFactory, Tokenizer
from ackd.teachers import ModelTeacher
from ackd.types import Shape


def prepare(
    *,
    task: str,
    teacher: str,
    data: str | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    dev_data: str | None = None,
    max_examples: int | None = None,
    reward_examples: int = 256,
    max_length: int = 128,
    data_seed: int = 0,
    student_layers: int | None = None,
    student: str | None = None,
    types: Sequence[str] = knowledge.NAMES,
    layer_map: str = "uniform",
    temperature: float = 4.0,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 5e-5,
    scale_steps: int = 10,
    device: str = "cpu",
) -> Distillation:
    """A distillation from plain values, each of them as on the command line.

    Args:
        task: a GLUE task, a generated one, or any name where `data` is a file.
        teacher: a folder with a fine-tuned model, a run's folder that holds one, or a hub id.
        data: a folder in the hub's layout, or a CSV, JSON lines or Parquet file; the hub if None.
        text_columns: one or two, where `data` is a file.
        label_column: where `data` is a file.
        dev_data: the file to report on, where `data` is a file; a part of `data` if None.
        max_examples: of the training data, drawn by `data_seed`.
        reward_examples: cut from the training data for the reward, half of it at most.
        max_length: tokens of an example; longer ones are cut.
        data_seed: of the reward split and of `max_examples`, the same for every run that is compared.
        student_layers: the student starts as so many of the teacher's layers.
        student: instead of `student_layers`: a folder or hub id to start from, or a JSON config to draw weights for.
        types: the knowledge types that can be selected.
        layer_map: uniform | last | skip | pairs such as 0:1,1:3,2:5.
        temperature: of the logits.
        steps: the budget in optimizer steps.
        batch_size: examples in a step.
        lr: peak learning rate.
        scale_steps: steps over which the knowledge losses are brought to one size; 0 leaves them as they are.
        device: cpu, cuda or cuda:1.

    Raises:
        InputError: if any of it cannot work, in one sentence.
    """
    place = check_device(device)
    spec = tasks.spec_of(task, data=data, text_columns=text_columns, label_column=label_column)
    model, tokenizer = _teacher(teacher, str(place))
    check_classes(spec, model, teacher, own_data=data is not None and Path(data).is_file())
    make_student, shape = _student(student, student_layers, model, tokenizer, spec.num_labels, teacher)
    the_teacher = ModelTeacher(model)
    knowledge.build(types, shape, the_teacher.shape, layers=layer_map, temperature=temperature)
    if "attention" in types:
        for who, one in (("teacher", model), ("student", make_student())):
            if not models.can_give_attention(one.to(place)):
                raise InputError(f"a {one.config.model_type} cannot give its attention ({who}): deselect 'attention'")
    return Distillation(
        _task(
            task,
            tokenizer,
            data=data,
            text_columns=tuple(text_columns),
            label_column=label_column,
            dev_data=dev_data,
            max_examples=max_examples,
            reward_examples=reward_examples,
            max_length=max_length,
            seed=data_seed,
        ),
        the_teacher,
        make_student,
        lambda: knowledge.build(types, shape, the_teacher.shape, layers=layer_map, temperature=temperature),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        scale_steps=scale_steps,
        device=place,
    )


def check_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: if there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: use cpu, cuda or cuda:1") from None
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


def _student(
    source: str | None, layers: int | None, teacher: Model, tokenizer: Tokenizer, num_labels: int, teacher_source: str
) -> tuple[StudentFactory, Shape]:
    if (source is None) == (layers is None):
        raise InputError("say what the student is: --student-layers, or --student, and not both")
    if layers is not None:
        make = models.from_layers(teacher, layers)
    elif source is not None and source.endswith(".json"):
        make = models.from_config(models.read_config(source, num_labels))
    else:
        assert source is not None
        if not models.same_vocabulary(models.load_tokenizer(source), tokenizer):
            raise InputError(
                f"the tokenizers of the student {source} and the teacher {teacher_source} differ: "
                "give a student that was trained with the teacher's tokenizer"
            )
        make = models.from_checkpoint(source, num_labels)
    with torch.random.fork_rng():
        shape = models.shape_of(make())
    if shape.vocabulary < len(tokenizer):
        raise InputError(
            f"the student {source} has a vocabulary of {shape.vocabulary}, "
            f"less than the {len(tokenizer)} tokens of the teacher's tokenizer"
        )
    return make, shape


# Environments of one process that name the same teacher or data share them: neither ever changes.
@lru_cache(maxsize=4)
def _teacher(source: str, device: str) -> tuple[Model, Tokenizer]:
    return models.load_model(source, device=device), models.load_tokenizer(source)


@lru_cache(maxsize=4)
def _task(name: str, tokenizer: Tokenizer, **source: Any) -> tasks.Task:
    return tasks.load(name, tokenizer, **source)
