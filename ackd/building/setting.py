"""Builds a distillation from names or objects, with all checks before the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from ackd import knowledge as kinds
from ackd import models, presets, tasks
from ackd.building import language, sentences
from ackd.building.cast import Cast, cast_of, reading
from ackd.building.checks import check_device, check_outputs, check_whole
from ackd.building.method import Types, method_of, preset_options
from ackd.building.sources import Source, StudentSource, model_of, seen_by, several, shown, task_of
from ackd.config import Precision, RecipeConfig, SettingConfig, checked, cut, part, renamed
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.models import Model, StudentFactory, Tokenizer, run
from ackd.numerics.memory import reuse_memory
from ackd.numerics.precision import computing
from ackd.tasks.data_sets import Data
from ackd.teachers import with_cache
from ackd.teachers.cache.budget import parse_size
from ackd.teachers.cache.device_rows import check_share
from ackd.teachers.cache.measuring import Step
from ackd.training.distillation import Distillation
from ackd.training.recipe import Recipe, check_length, length
from ackd.types import Batch, OutputRequest, Teacher
from ackd.weighting.weighting import Weighting, together

OWN = "data"  # default task name for the user's own data
# arguments of `prepare` other than settings
NAMES = "task teacher student tokenizer data dev_data knowledge options scale_steps compute_metrics".split()


def prepare(
    *,
    task: str = OWN,
    teacher: Source | Sequence[Source] = (),
    student: StudentSource | None = None,
    tokenizer: Tokenizer | None = None,
    data: Data | None = None,
    dev_data: Data | None = None,
    knowledge: Types = (),
    options: Mapping[str, Any] | Sequence[str] = (),
    scale_steps: int = 10,
    compute_metrics: tasks.ComputeMetrics | None = None,
    **settings: Any,
) -> Distillation:
    """Builds a distillation from names and plain values (as on the command line), or from objects.

    Args:
        task: a GLUE task, a generated task, embeddings, language, or a name for your own data.
        teacher: a folder with a fine-tuned model, a run's folder with a model, or a hub id; a transformers model, which
            is frozen and converted to float32; any `Teacher`; or a list of these. May be empty for a preset that needs
            no teacher.
        student: a folder or hub id to start from, a JSON config (random weights), a transformers model or config, or a
            function that returns a new model. None: `student_layers` of the first teacher.
        tokenizer: the tokenizer of teachers and student that are given as objects. None: that of the model's folder.
        data: a folder of GLUE in the hub's layout; or your own data: a CSV, JSON lines or Parquet file, a folder
            written by `save_to_disk`, USER/NAME[:CONFIG] on the hub, a `datasets.Dataset` or a `DatasetDict`. None:
            GLUE from the hub, or a generated task.
        dev_data: a file or a `Dataset` to report on, for your own data. None: the dev split of the data set, or else a
            part of `data`.
        knowledge: the types that can be selected: names, `Knowledge` objects, or functions that create one from the
            shapes of student and teacher. Default: logits, hidden and attention. With several teachers, `logits@2`
            belongs to the second one and `logits` to all. For a preset with replaceable losses, they replace its
            losses.
        options: options of the preset, by name or as NAME=VALUE.
        scale_steps: batches over which the scales of the knowledge losses are estimated; 0 disables scaling. Presets
            with their own losses always use 0.
        compute_metrics: your own metrics, as for transformers' `Trainer`: a function from an `EvalPrediction` with
            predictions [N, C] (regression: [N, 1]) and label_ids [N] to a dict of numbers. Higher is better; the first
            one is the score.
        **settings: the other fields of `ackd.config.SettingConfig`.

    Raises:
        InputError: if an argument is invalid, or the arguments do not fit together.

    Example:
        prepare(task="sst2", teacher="runs/teacher", student_layers=3, epochs=1)
        prepare(teacher=model, tokenizer=tokenizer, student_layers=3, data=dataset, epochs=1)
    """
    if data is None and task == OWN:
        raise InputError("there is nothing to learn: name a task with task=, or hand over data")
    settings = renamed(settings | ({"knowledge": knowledge} if knowledge else {}))
    knowledge = settings.pop("knowledge", ())
    config = checked(SettingConfig, settings, others=NAMES)
    _check(config)
    reuse_memory()
    sources, student = several(teacher), models.unpacked(student)
    if not sources and config.preset is None:
        alone = " or ".join(name for name, one in presets.METHODS.items() if not one.teachers[0])
        raise InputError(f"no teacher was named: give a folder or a hub id, or a preset that needs none ({alone})")
    cast = cast_of(task, sources, student, tokenizer, data, config)
    if cast.spec.sentences and config.preset is None:
        knowledge = knowledge or kinds.SENTENCES
    teachers = [one.shape for one in cast.teachers]
    make = method_of(knowledge, preset_options(config, options), cast.shape, teachers, config)
    method, model = _checked_method(cast, make, sources, config)
    # "dev" avoids a warning about examples that a teacher has seen, which do not matter without labels
    where = "dev" if cast.spec.sentences else config.reward_from
    apart = ("use --reward-from dev:0.5 with a --dev-data that it has not seen",) if cast.spec.language else ()
    seen = seen_by(sources, (student,), where, *apart)
    read = partial(task_of, task, data=data, dev_data=dev_data, seen=seen, **cut(config))
    its_task, answering, spent = _answered(cast, read, method, task, config)
    if cast.spec.language:
        language.check_lengths(its_task, model, cast.teachers, [shown(one) for one in sources])
    return _built(cast, its_task.judged_by(compute_metrics), answering, make, method, config, scale_steps, spent)


def _check(config: SettingConfig) -> None:
    """Checks options before any model or data is read."""
    check_length(config.steps, config.epochs)
    Recipe.of(part(config, RecipeConfig))
    check_share(config.cache_device_memory)
    check_device(config.device)


def _checked_method(
    cast: Cast, make: Callable[[], presets.Preset], sources: Sequence[Source], config: SettingConfig
) -> tuple[presets.Preset, Model]:
    """A method that fits the task and the models, and an initial student."""
    with torch.random.fork_rng():
        method = make()
        if cast.spec.sentences:
            sentences.check_method(method, config.preset)
        if cast.spec.language:
            language.check_method(method, config.preset)
        named, model = [model_of(one) for one in cast.teachers], cast.make_student().to(check_device(config.device))
        check_outputs(named, model, method.knowledge, config.preset if method.stages else None)
    for m in cast.strangers:
        check_whole(shown(sources[m]), [one for one in method.knowledge if one.teacher == m])
    return method, model


def _answered(
    cast: Cast, read: Callable[[Tokenizer], tasks.Task], method: presets.Preset, name: str, config: SettingConfig
) -> tuple[tasks.Task, list[Teacher], CostTracker]:
    """The data, the teachers for it, and the costs of the teachers before the first step."""
    task, teachers = reading(cast, read)
    place, spent = check_device(config.device), CostTracker()
    if cast.spec.sentences:
        teachers = sentences.narrowed(teachers, task, cast.shape, place, spent)
    if config.cache is not None:
        step = stepping(cast.make_student, place, config.precision)
        teachers = _cached(teachers, method, task, name, config, step)
    if cast.spec.sentences:
        if not teachers:
            raise InputError(f"the labels of {name} are a teacher's embeddings: give --teacher")
        task = sentences.labelled(task, teachers[0], place, spent)
    return task, teachers, spent


def stepping(make_student: StudentFactory, place: torch.device, precision: Precision) -> Step:
    """Returns a function that runs forward and backward passes of a new student; random states stay unchanged."""

    @cache
    def model() -> Model:
        return make_student().to(place)

    def step(batch: Batch) -> None:
        with torch.random.fork_rng(), computing(precision, place):
            logits = run(model(), batch, OutputRequest(logits=True)).logits
            assert logits is not None
            logits.sum().backward()

    return step


def _cached(
    teachers: Sequence[Teacher],
    method: presets.Preset,
    its_task: tasks.Task,
    name: str,
    config: SettingConfig,
    step: Step,
) -> list[Teacher]:
    """The teachers, each behind a cache."""
    assert config.cache is not None
    return [
        with_cache(
            one,
            [loss for loss in method.knowledge if loss.teacher == m],
            its_task.train,
            folder=config.cache,
            name=name,
            budget=parse_size(config.cache_budget),
            dtype=config.cache_dtype,
            reads=config.cache_reads,
            batch_size=config.batch_size,
            device=check_device(config.device),
            device_memory=config.cache_device_memory,
            step=step,
        )
        for m, one in enumerate(teachers)
    ]


def _built(
    cast: Cast,
    task: tasks.Task,
    teachers: Sequence[Teacher],
    make: Callable[[], presets.Preset],
    method: presets.Preset,
    config: SettingConfig,
    scale_steps: int,
    spent: CostTracker,
) -> Distillation:
    """The distillation, with the method's own teachers, weighting and filter."""
    place = check_device(config.device)
    images = tasks.images(task.train, cast.tokenizer)
    classes, make_student = task.spec.num_labels, cast.make_student
    material = presets.Material(task.train, classes, make_student, place, images=images, costs=spent)
    weighs = [method.weigh(teachers, material)] if method.weigh is not None else []
    if method.revise is not None:
        teachers = method.revise(teachers, material)

    def make_weighting() -> Weighting | None:
        own = make().weighting
        return together([*([own] if own is not None else []), *weighs])

    weights = config.teacher_weights  # a method's own teachers follow the user's teachers
    batch = config.batch_size * config.accumulate
    return Distillation(
        task,
        teachers,
        cast.make_student,
        lambda: make().knowledge,
        stages=method.stages,
        make_weighting=make_weighting if method.weighting is not None or weighs else None,
        example_filter=method.example_filter,
        prepared=material.costs,
        steps=length(config.steps, config.epochs, examples=len(task.train), batch=batch),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        lr=config.lr,
        recipe=Recipe.of(part(config, RecipeConfig), method.recipe),
        teacher_weights=weights and [*weights, *[1.0] * (len(teachers) - len(cast.teachers))],
        scale_steps=0 if method.stages else scale_steps,
        device=place,
        precision=config.precision,
        compiled=config.compile,
        cosines=config.gradient_cosines,
    )
