"""From names and paths to a distillation that is ready to run, with everything checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ackd import knowledge, models, presets, tasks
from ackd.building.checks import check_classes, check_device, check_outputs, check_whole
from ackd.building.sources import find_tokenizer, seen_by, student_of, task_of, teacher_of
from ackd.errors import InputError
from ackd.numerics.memory import reuse_memory
from ackd.numerics.precision import Precision
from ackd.teachers import ModelTeacher, OwnTokens, kept
from ackd.teachers.cache.plan import parse_size
from ackd.training.distillation import Distillation
from ackd.training.recipe import Recipe, Schedule, check_length, length
from ackd.types import Shape, Teacher
from ackd.weighting.weighting import Weighting, together


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
    reward_from: str = tasks.TRAIN,
    wrong_labels: float = 0.0,
    max_length: int = 128,
    data_seed: int = 0,
    student_layers: int | None = None,
    student: str | None = None,
    student_init: models.Init = "even",
    types: Sequence[str] = (),
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    layer_map: str | None = None,
    temperature: float = 4.0,
    teacher_weights: Sequence[float] = (),
    cache: str | None = None,
    cache_budget: str = "4GB",
    cache_dtype: str = "float16",
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 32,
    accumulate: int = 1,
    lr: float = 5e-5,
    warmup: float | None = None,
    schedule: Schedule | None = None,
    weight_decay: float | None = None,
    adam_betas: Sequence[float] | None = None,
    gradient_clipping: float | None = None,
    scale_steps: int = 10,
    device: str = "cpu",
    precision: Precision = "fp32",
    compiled: bool = False,
    cosines: bool = False,
) -> Distillation:
    """A distillation from plain values, each of them as on the command line.

    Args:
        task: a GLUE task, a generated one, or any name for data of your own.
        teacher: a folder with a fine-tuned model, a run's folder that holds one, or a hub id; or several of them; or
            none, for a preset that needs none.
        data: a folder in the hub's layout; or your own, which is a CSV, JSON lines or Parquet file, a folder that
            `save_to_disk` wrote, or USER/NAME[:CONFIG] on the hub; GLUE on the hub if None.
        text_columns: one or two, of data of your own.
        label_column: of data of your own.
        dev_data: the file to report on, where `data` is your own; if None, the data set's own split for it, or else a
            part of `data`.
        max_examples: of the training data, drawn by `data_seed` from what the reward split leaves.
        reward_examples: cut from the training data for the reward, half of it at most, from those that no model of the
            run says it was trained on.
        reward_from: train, or dev:PART, as dev:0.5: that part of dev is for the reward, and reports read the rest.
        wrong_labels: share of the labels of train and reward split that are turned into another class.
        max_length: tokens of an example; longer ones are cut.
        data_seed: of the reward split and of `max_examples`, the same for every run that is compared.
        student_layers: the student starts as so many of the layers of `student`, or of the first teacher.
        student: a folder or hub id to start from, or a JSON config to draw weights for.
        student_init: which of the layers: `even` distances, or the `first` ones.
        types: the knowledge types that can be selected, logits, hidden and attention if none is named; of several
            teachers `logits@2` is the second's, and `logits` stands for everyone's. With a preset whose own losses
            give way, these take their place.
        preset: a published method's types, weights, stages and examples, instead of `types`; several joined by commas.
        options: of the preset, by their names.
        layer_map: uniform | last | skip | pairs such as 0:1,1:3,2:5; uniform, or the preset's own, if None.
        temperature: of the logits; a preset has its own.
        teacher_weights: what each teacher's losses count; 1 each if not given.
        cache: a folder that keeps the teachers' answers, shared by every run that asks the same; none if None.
        cache_budget: what one teacher's answers may take there, as 2GB.
        cache_dtype: float16 | bfloat16 | float32.
        steps: the budget in optimizer steps; `ackd.training.recipe.STEPS` if neither it nor `epochs` is given.
        epochs: instead of `steps`: passes over the training data.
        batch_size: examples in a batch.
        accumulate: batches whose gradients make one optimizer step.
        lr: peak learning rate.
        warmup: of `ackd.training.recipe.Recipe`, as the four that follow: the preset's own, or the default, if None.
        schedule: what follows the warm-up: linear | cosine | constant.
        weight_decay: of the matrices.
        adam_betas: two.
        gradient_clipping: largest norm of a step's gradient; 0: none.
        scale_steps: batches over which the knowledge losses are brought to one size; 0 leaves them as they are, as
            every preset does.
        device: cpu, cuda or cuda:1.
        precision: fp32 | bf16, of the models' passes.
        compiled: compile the student's passes.
        cosines: compare the gradients of types and labels at the first step of each phase.

    Raises:
        InputError: if any of it cannot work, in one sentence.
    """
    check_length(steps, epochs)
    given: dict[str, Any] = {"warmup": warmup, "schedule": schedule, "weight_decay": weight_decay}
    given |= {"adam_betas": adam_betas, "gradient_clipping": gradient_clipping}
    Recipe.of(given)  # refuses what cannot be before anything is read
    reuse_memory()
    place = check_device(device)
    sources = [teacher] if isinstance(teacher, str) else list(teacher)
    if not sources and preset is None:
        alone = " or ".join(name for name, one in presets.METHODS.items() if not one.teachers[0])
        raise InputError(f"no teacher was named: give a folder or a hub id, or a preset that needs none ({alone})")
    spec = tasks.spec_of(task, data=data, text_columns=text_columns, label_column=label_column)
    teachers, tokenizers = _teachers(sources, spec, place, precision, own_data=bool(text_columns))
    tokenizer = _read_by(student, tokenizers) if teachers else find_tokenizer(task, (), student)
    strangers = [m for m, its in enumerate(tokenizers) if not models.same_vocabulary(its, tokenizer)]
    if len(teacher_weights) not in (0, len(teachers)) or not all(weight > 0 for weight in teacher_weights):
        raise InputError(f"give one weight above 0 for each of the {len(teachers)} teachers, or none")
    first = (teachers[0].model, sources[0]) if teachers else None
    make_student, shape = student_of(student, student_layers, first, tokenizer, spec.num_labels, student_init)
    make_method = _method(
        types,
        preset,
        options or {},
        shape,
        [one.shape for one in teachers],
        layers=layer_map,
        temperature=temperature,
    )
    with torch.random.fork_rng():
        method = make_method()
        named = [one.model for one in teachers]
        check_outputs(named, make_student().to(place), method.knowledge, preset if method.stages else None)
    for m in strangers:
        check_whole(sources[m], [one for one in method.knowledge if one.teacher == m])
    load = partial(
        task_of,
        task,
        data=data,
        text_columns=tuple(text_columns),
        label_column=label_column,
        dev_data=dev_data,
        max_examples=max_examples,
        reward_examples=reward_examples,
        reward_from=reward_from,
        wrong_labels=wrong_labels,
        max_length=max_length,
        seed=data_seed,
        seen=seen_by(sources, (student,), reward_from),
    )
    its_task = load(tokenizer)
    answering: list[Teacher] = list(teachers)
    for m in strangers:
        answering[m], its_task = _strange(teachers[m], its_task, load(tokenizers[m]))
    if cache is not None:
        budget = parse_size(cache_budget)
        answering = [
            kept(
                one,
                [loss for loss in method.knowledge if loss.teacher == m],
                its_task.train,
                folder=cache,
                name=task,
                budget=budget,
                dtype=cache_dtype,
            )
            for m, one in enumerate(answering)
        ]
    images = tasks.images(its_task.train, tokenizer)
    material = presets.Material(its_task.train, spec.num_labels, make_student, place, images=images)
    weighs = [method.weigh(answering, material)] if method.weigh is not None else []
    if method.revise is not None:
        answering = list(method.revise(answering, material))

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
        prepared=material.ledger,
        steps=length(steps, epochs, examples=len(its_task.train), batch=batch_size * accumulate),
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        recipe=Recipe.of(given, method.recipe),
        # a method's own teachers come behind those that were named
        teacher_weights=teacher_weights and [*teacher_weights, *[1.0] * (len(answering) - len(teachers))],
        scale_steps=0 if method.stages else scale_steps,
        device=place,
        precision=precision,
        compiled=compiled,
        cosines=cosines,
    )


def _teachers(
    sources: Sequence[str], spec: tasks.TaskSpec, place: torch.device, precision: Precision, *, own_data: bool
) -> tuple[list[ModelTeacher], list[models.Tokenizer]]:
    """The teachers that were named, and their tokenizers."""
    teachers: list[ModelTeacher] = []
    tokenizers: list[models.Tokenizer] = []
    for source in sources:
        teacher, tokenizer = teacher_of(source, str(place), precision)
        check_classes(spec, teacher.model, source, own_data=own_data)
        teachers.append(teacher)
        tokenizers.append(tokenizer)
    return teachers, tokenizers


def _read_by(student: str | None, tokenizers: Sequence[models.Tokenizer]) -> models.Tokenizer:
    """What the student reads: its own tokenizer's tokens where it has one, or else the first teacher's."""
    if student is None or student.endswith(".json"):
        return tokenizers[0]
    own = models.load_tokenizer(student)
    return next((its for its in tokenizers if models.same_vocabulary(its, own)), own)


def _strange(teacher: ModelTeacher, task: tasks.Task, its: tasks.Task) -> tuple[Teacher, tasks.Task]:
    """A teacher that reads a task in tokens of its own, `its`; and the task with these beside."""
    name = its.train.fingerprint[:16]
    longer = float(its.train.lengths.mean() / task.train.lengths.mean())
    return OwnTokens(teacher, name, longer), task.beside(name, its)


def _method(
    types: Sequence[str],
    preset: str | None,
    options: Mapping[str, Any],
    student: Shape,
    teachers: Sequence[Shape],
    *,
    layers: str | None,
    temperature: float,
) -> Callable[[], presets.Preset]:
    """What makes the losses, and what else a method has, anew for each student."""
    if preset is None:
        if options:
            raise InputError(f"only a preset takes {' and '.join(options)}: name one with --preset")
    elif not types:
        return lambda: presets.preset(preset, student, teachers, **options, layers=layers)
    wanted = _by_teacher(types or knowledge.DEFAULT, len(teachers))

    def make() -> presets.Preset:
        method = presets.Preset()
        if preset is not None:
            method = presets.preset(preset, student, teachers, **options)
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
            many = f"write {kind}@1 to {kind}@{teachers}, or {kind} for every one"
            raise InputError(f"{name!r} names no teacher: {many if teachers > 1 else f'there is one, so write {kind}'}")
        for m in [int(place) - 1] if place else range(teachers):
            wanted[m].append(kind)
    return wanted
