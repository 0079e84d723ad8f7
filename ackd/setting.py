"""From names and paths to a distillation that is ready to run, with everything checked before anything starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ackd import knowledge, models, presets, tasks
from ackd.cache import Cache, Examples
from ackd.checks import check_classes, check_device, check_outputs
from ackd.errors import InputError
from ackd.loop import Distillation
from ackd.memory import reuse_memory
from ackd.models import Model, StudentFactory, Tokenizer
from ackd.plan import make_plan, parse_size
from ackd.precision import Precision
from ackd.tasks import Split
from ackd.teachers import Cached, ModelTeacher
from ackd.types import Knowledge, Shape, Teacher
from ackd.weighting import Weighting, together

logger = logging.getLogger("ackd")


def prepare(
    *,
    task: str,
    teacher: str | Sequence[str] = (),
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
    types: Sequence[str] = (),
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    methods: Mapping[str, presets.Method] = presets.METHODS,
    layer_map: str | None = None,
    temperature: float = 4.0,
    teacher_weights: Sequence[float] = (),
    cache: str | None = None,
    cache_budget: str = "4GB",
    cache_dtype: str = "float16",
    steps: int = 300,
    batch_size: int = 32,
    accumulate: int = 1,
    lr: float = 5e-5,
    scale_steps: int = 10,
    device: str = "cpu",
    precision: Precision = "fp32",
    compiled: bool = False,
) -> Distillation:
    """A distillation from plain values, each of them as on the command line.

    Args:
        task: a GLUE task, a generated one, or any name where `data` is a file.
        teacher: a folder with a fine-tuned model, a run's folder that holds one, or a hub id; or several of them; or
            none, for a preset that needs none.
        data: a folder in the hub's layout, or a CSV, JSON lines or Parquet file; the hub if None.
        text_columns: one or two, where `data` is a file.
        label_column: where `data` is a file.
        dev_data: the file to report on, where `data` is a file; a part of `data` if None.
        max_examples: of the training data, drawn by `data_seed`.
        reward_examples: cut from the training data for the reward, half of it at most.
        max_length: tokens of an example; longer ones are cut.
        data_seed: of the reward split and of `max_examples`, the same for every run that is compared.
        student_layers: the student starts as so many of the first teacher's layers.
        student: instead of `student_layers`: a folder or hub id to start from, or a JSON config to draw weights for.
        types: the knowledge types that can be selected, logits, hidden and attention if none is named; of several
            teachers `logits@2` is the second's, and `logits` stands for everyone's. With a preset whose own losses
            give way, these take their place.
        preset: a published method's types, weights, stages and examples, instead of `types`; several joined by commas.
        options: of the preset, by their names.
        methods: the presets there are; `ackd.agents.presets.METHODS` has those that learn as well.
        layer_map: uniform | last | skip | pairs such as 0:1,1:3,2:5; uniform, or the preset's own, if None.
        temperature: of the logits; a preset has its own.
        teacher_weights: what each teacher's losses count; 1 each if not given.
        cache: a folder that keeps the teachers' answers, shared by every run that asks the same; none if None.
        cache_budget: what one teacher's answers may take there, as 2GB.
        cache_dtype: float16 | bfloat16 | float32.
        steps: the budget in optimizer steps.
        batch_size: examples in a batch.
        accumulate: batches whose gradients make one optimizer step.
        lr: peak learning rate.
        scale_steps: batches over which the knowledge losses are brought to one size; 0 leaves them as they are, as
            every preset does.
        device: cpu, cuda or cuda:1.
        precision: fp32 | bf16, of the models' passes.
        compiled: compile the student's passes.

    Raises:
        InputError: if any of it cannot work, in one sentence.
    """
    reuse_memory()
    place = check_device(device)
    sources = [teacher] if isinstance(teacher, str) else list(teacher)
    if not sources and preset is None:
        alone = " or ".join(name for name, one in presets.METHODS.items() if not one.teachers[0])
        raise InputError(f"no teacher was named: give a folder or a hub id, or a preset that needs none ({alone})")
    spec = tasks.spec_of(task, data=data, text_columns=text_columns, label_column=label_column)
    loaded = [_teacher(source, str(place), precision) for source in sources]
    tokenizer = loaded[0][1] if loaded else find_tokenizer(task, (), student)
    for source, (one, its_tokenizer) in zip(sources, loaded, strict=True):
        check_classes(spec, one.model, source, own_data=data is not None and Path(data).is_file())
        if not models.same_vocabulary(its_tokenizer, tokenizer):
            raise InputError(
                f"the tokenizers of the teachers {sources[0]} and {source} differ: distil from one of them"
            )
    teachers = [one for one, _ in loaded]
    if len(teacher_weights) not in (0, len(teachers)) or not all(weight > 0 for weight in teacher_weights):
        raise InputError(f"give one weight above 0 for each of the {len(teachers)} teachers, or none")
    first = (teachers[0].model, sources[0]) if teachers else None
    make_student, shape = _student(student, student_layers, first, tokenizer, spec.num_labels)
    make_method = _method(
        types,
        preset,
        options or {},
        shape,
        [one.shape for one in teachers],
        layers=layer_map,
        temperature=temperature,
        methods=methods,
    )
    with torch.random.fork_rng():
        method = make_method()
        check_outputs([one.model for one in teachers], make_student().to(place), method.knowledge)
    its_task = _task(
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
    )
    answering: Sequence[Teacher] = teachers
    if cache is not None:
        budget = parse_size(cache_budget)
        answering = [
            _kept(
                one,
                [loss for loss in method.knowledge if loss.teacher == m],
                cache,
                task,
                its_task.train,
                budget,
                cache_dtype,
            )
            for m, one in enumerate(teachers)
        ]
    images = tasks.images(its_task.train, tokenizer)
    material = presets.Material(its_task.train, spec.num_labels, make_student, place, images=images)
    weighs = [method.weigh(answering, material)] if method.weigh is not None else []
    if method.revise is not None:
        answering = method.revise(answering, material)

    def make_weighting() -> Weighting | None:
        own = make_method().weighting
        return together([*([own] if own is not None else []), *weighs])

    return Distillation(
        its_task,
        answering,
        make_student,
        lambda: make_method().knowledge,
        stages=method.stages,
        make_weighting=make_weighting if method.weighting is not None or weighs else None,
        thin=method.thin,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        # a method's own teachers come behind those that were named
        teacher_weights=teacher_weights and [*teacher_weights, *[1.0] * (len(answering) - len(teachers))],
        scale_steps=0 if method.stages else scale_steps,
        device=place,
        precision=precision,
        compiled=compiled,
    )


def students(
    *,
    task: str,
    students: Sequence[str] = (),
    teacher: str | None = None,
    student_layers: int | None = None,
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
        device: cpu, cuda or cuda:1.
        precision: fp32 | bf16.
        data: as the rest.
        text_columns: as the rest.
        label_column: as the rest.
        data_seed: as the rest.
        **cut: dev_data, max_examples, reward_examples, max_length.

    Raises:
        InputError: if any of it cannot work, in one sentence.
    """
    reuse_memory()
    place = check_device(device)
    spec = tasks.spec_of(task, data=data, text_columns=text_columns, label_column=label_column)
    own = next((one for one in students if not one.endswith(".json")), None)
    tokenizer = find_tokenizer(task, [teacher] if teacher is not None else [], own)
    first = (_teacher(teacher, str(place), precision)[0].model, teacher) if teacher is not None else None
    if first is not None and student_layers is not None:
        check_classes(spec, first[0], first[1], own_data=data is not None and Path(data).is_file())
    for one in students:
        if not one.endswith(".json") and not models.same_vocabulary(models.load_tokenizer(one), tokenizer):
            raise InputError(f"the tokenizers of {teacher or own} and {one} differ: take models of one tokenizer")
    factories = [_student(one, student_layers, first, tokenizer, spec.num_labels)[0] for one in students or (None,)]
    source = {"data": data, "text_columns": tuple(text_columns), "label_column": label_column, "seed": data_seed}
    return _task(task, tokenizer, **source, **cut), factories, tokenizer


def _method(
    types: Sequence[str],
    preset: str | None,
    options: Mapping[str, Any],
    student: Shape,
    teachers: Sequence[Shape],
    *,
    layers: str | None,
    temperature: float,
    methods: Mapping[str, presets.Method],
) -> Callable[[], presets.Preset]:
    """What makes the losses, and what else a method has, anew for each student."""
    if preset is None:
        if options:
            raise InputError(f"{', '.join(options)}: options of a preset, and none is named with --preset")
    elif not types:
        return lambda: presets.preset(preset, student, teachers, methods=methods, **options, layers=layers)
    wanted = _by_teacher(types or knowledge.DEFAULT, len(teachers))

    def make() -> presets.Preset:
        method = presets.Preset()
        if preset is not None:
            method = presets.preset(preset, student, teachers, methods=methods, **options)
            if not method.gives_way:
                raise InputError(f"the preset {preset!r} brings its own knowledge types: leave {', '.join(types)} away")
        losses = [
            one
            for m, names in enumerate(wanted)
            for one in knowledge.build(
                names,
                student,
                teachers[m],
                layers=layers or "uniform",
                temperature=temperature,
                teacher_place=m,
                suffix=f"@{m + 1}" if len(teachers) > 1 else "",
            )
        ]
        return replace(method, knowledge=losses, stages=())

    return make


def _by_teacher(types: Sequence[str], teachers: int) -> list[list[str]]:
    """The types of each teacher: `logits@2` is the second's, `logits` everyone's."""
    wanted: list[list[str]] = [[] for _ in range(teachers)]
    for name in types:
        kind, _, place = name.partition("@")
        if place and not (place.isdigit() and 1 <= int(place) <= teachers):
            raise InputError(f"{name!r} names no teacher: write {kind}@1 to {kind}@{teachers}, or {kind} for every one")
        for m in [int(place) - 1] if place else range(teachers):
            wanted[m].append(kind)
    return wanted


def _kept(
    teacher: ModelTeacher,
    losses: Sequence[Knowledge],
    folder: str,
    name: str,
    split: Split,
    budget: int,
    dtype: str,
) -> Teacher:
    """The teacher behind a cache, whose plan is told before anything starts."""
    if not losses:
        return teacher
    types = {loss.name: loss.teacher_needs for loss in losses}
    plan = make_plan(types, teacher.shape, split.lengths, budget=budget, dtype=dtype)
    key = (str(Path(folder).resolve()), name, teacher.fingerprint, split.fingerprint, dtype)
    cache = _caches.get(key)
    if cache is None:
        cache = _caches[key] = Cache(
            folder,
            name=name,
            teacher=teacher.fingerprint,
            shape=teacher.shape,
            examples=Examples(split.ids, split.lengths, split.fingerprint),
            fields=plan.fields,
            dtype=dtype,
        )
    else:
        cache.widen(plan.fields)
    logger.info("cache %s: %s", cache.folder, plan)
    return Cached(teacher, cache)


def _student(
    source: str | None, layers: int | None, teacher: tuple[Model, str] | None, tokenizer: Tokenizer, num_labels: int
) -> tuple[StudentFactory, Shape]:
    """The student's factory and sizes; `teacher` is the first that was named, and its name."""
    if (source is None) == (layers is None):
        raise InputError("say what the student is: --student-layers, or --student, and not both")
    if layers is not None:
        if teacher is None:
            raise InputError("--student-layers are those of a teacher, and none was named: give --student instead")
        make = models.from_layers(teacher[0], layers)
    elif source is not None and source.endswith(".json"):
        make = models.from_config(models.read_config(source, num_labels))
    else:
        assert source is not None
        if teacher is not None and not models.same_vocabulary(models.load_tokenizer(source), tokenizer):
            raise InputError(
                f"the tokenizers of the student {source} and the teacher {teacher[1]} differ: "
                "give a student that was trained with the teacher's tokenizer"
            )
        make = models.from_checkpoint(source, num_labels)
    with torch.random.fork_rng():
        shape = models.shape_of(make())
    if shape.vocabulary < len(tokenizer):
        raise InputError(
            f"the student {source} has a vocabulary of {shape.vocabulary}, "
            f"less than the {len(tokenizer)} tokens of the {'task' if teacher is None else 'teacher'}'s tokenizer"
        )
    return make, shape


def find_tokenizer(task: str, teachers: Sequence[str], student: str | None) -> Tokenizer:
    """The first teacher's; without a teacher the student's, or that of a generated task where this is a config alone.

    Raises:
        InputError: if there is none.
    """
    if teachers:
        return models.load_tokenizer(teachers[0])
    if student is not None and not student.endswith(".json"):
        return models.load_tokenizer(student)
    if task not in tasks.EMBEDDED:
        raise InputError(
            f"no teacher was named, nor a student that brings a tokenizer for {task}: "
            "give --teacher, or --student with a folder or a hub id"
        )
    return tasks.embedded_tokenizer(task)


# Environments of one process that name the same teacher, data or cache share them: none ever changes.
_caches: dict[tuple[str, ...], Cache] = {}


@lru_cache(maxsize=4)
def _teacher(source: str, device: str, precision: Precision) -> tuple[ModelTeacher, Tokenizer]:
    model = models.load_model(source, device=device)
    return ModelTeacher(model, precision=precision), models.load_tokenizer(source)


@lru_cache(maxsize=4)
def _task(name: str, tokenizer: Tokenizer, **source: Any) -> tasks.Task:
    return tasks.load(name, tokenizer, **source)
