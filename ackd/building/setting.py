"""From names or objects to a distillation that is ready to run, with everything checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ackd import presets, tasks
from ackd.building.cast import Cast, cast_of, reading
from ackd.building.checks import check_device, check_outputs, check_whole
from ackd.building.method import Types, method_of, preset_options
from ackd.building.sources import Source, StudentSource, model_of, seen_by, several, shown, task_of
from ackd.config import RecipeConfig, SettingConfig, checked, cut, part, renamed
from ackd.errors import InputError
from ackd.models import Tokenizer
from ackd.numerics.memory import reuse_memory
from ackd.tasks.data_sets import Data
from ackd.teachers import with_cache
from ackd.teachers.cache.budget import parse_size
from ackd.training.distillation import Distillation
from ackd.training.recipe import Recipe, check_length, length
from ackd.types import Teacher
from ackd.weighting.weighting import Weighting, together

OWN = "data"  # what data of one's own is called, if nobody names it
# of what `prepare` takes besides settings
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
    """A distillation from names and plain values, each of them as on the command line, or from objects.

    Args:
        task: a GLUE task, a generated one, or what to call data of your own.
        teacher: a folder with a fine-tuned model, a run's folder that holds one, or a hub id; a transformers model,
            which is frozen from then on and in float32, or any `Teacher`; or several; or none, for a preset that needs
            none.
        student: a folder or hub id to start from, a JSON config to draw weights for, a transformers model or config,
            or a function that makes a new model; if None, `student_layers` of the first teacher.
        tokenizer: of teachers and student that are handed over; that of the model's folder if None.
        data: a folder in the hub's layout; your own, which is a CSV, JSON lines or Parquet file, a folder that
            `save_to_disk` wrote, USER/NAME[:CONFIG] on the hub, or a `datasets.Dataset` or `DatasetDict`; GLUE on the
            hub if None.
        dev_data: what to report on, where `data` is your own: a file or a `Dataset`; if None, the data set's own split
            for it, or else a part of `data`.
        knowledge: what can be selected, by names, as `Knowledge`, or as functions of the shapes of student and teacher
            that make one; logits, hidden and attention if there is none. Of several teachers `logits@2` is the
            second's, and `logits` stands for everyone's. With a preset whose own losses give way, these take their
            place.
        options: of the preset, by their names, or as NAME=VALUE.
        scale_steps: batches over which the knowledge losses are brought to one size; 0 leaves them as they are, as
            every preset does.
        compute_metrics: metrics of your own, as transformers' `Trainer` takes them: from an `EvalPrediction` with
            predictions [N, C], of regression [N, 1], and label_ids [N] to a dict of numbers, of which more is better;
            the first is the score.
        **settings: the other fields of `ackd.config.SettingConfig`.

    Raises:
        InputError: if any of it cannot work, in one sentence.

    Example:
        prepare(task="sst2", teacher="runs/teacher", student_layers=3, epochs=1)
        prepare(teacher=model, tokenizer=tokenizer, student_layers=3, data=dataset, epochs=1)
    """
    if data is None and task == OWN:
        raise InputError("there is nothing to learn: name a task with task=, or hand over data")
    settings = renamed(settings | ({"knowledge": knowledge} if knowledge else {}))
    knowledge = settings.pop("knowledge", ())
    config = checked(SettingConfig, settings, others=NAMES)
    check_length(config.steps, config.epochs)
    Recipe.of(part(config, RecipeConfig))  # refuses what cannot be before anything is read
    reuse_memory()
    place = check_device(config.device)
    sources = several(teacher)
    if not sources and config.preset is None:
        alone = " or ".join(name for name, one in presets.METHODS.items() if not one.teachers[0])
        raise InputError(f"no teacher was named: give a folder or a hub id, or a preset that needs none ({alone})")
    cast = cast_of(task, sources, student, tokenizer, data, config)
    teachers = [one.shape for one in cast.teachers]
    make = method_of(knowledge, preset_options(config, options), cast.shape, teachers, config)
    with torch.random.fork_rng():
        method = make()
        named = [model_of(one) for one in cast.teachers]
        check_outputs(named, cast.make_student().to(place), method.knowledge, config.preset if method.stages else None)
    for m in cast.strangers:
        check_whole(shown(sources[m]), [one for one in method.knowledge if one.teacher == m])
    seen = seen_by(sources, (student,), config.reward_from)
    its_task, answering = reading(cast, partial(task_of, task, data=data, dev_data=dev_data, seen=seen, **cut(config)))
    its_task = its_task.judged_by(compute_metrics)
    if config.cache is not None:
        answering = _cached(answering, method, its_task, task, config)
    return _built(cast, its_task, answering, make, method, config, scale_steps)


def _cached(
    teachers: Sequence[Teacher], method: presets.Preset, its_task: tasks.Task, name: str, config: SettingConfig
) -> list[Teacher]:
    """The teachers with the answers that are kept of them."""
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
) -> Distillation:
    """The distillation, with what a method has of its own around or beside the teachers."""
    place = check_device(config.device)
    images = tasks.images(task.train, cast.tokenizer)
    material = presets.Material(task.train, task.spec.num_labels, cast.make_student, place, images=images)
    weighs = [method.weigh(teachers, material)] if method.weigh is not None else []
    if method.revise is not None:
        teachers = method.revise(teachers, material)

    def make_weighting() -> Weighting | None:
        own = make().weighting
        return together([*([own] if own is not None else []), *weighs])

    weights = config.teacher_weights  # a method's own teachers come behind those that were named
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
