"""Finds models, tokenizers and data by name, or takes them as objects."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ackd import models, tasks
from ackd.config import Init, Precision
from ackd.corpora import text_task
from ackd.errors import InputError
from ackd.models import Model, StudentFactory, Tokenizer
from ackd.tasks.data_sets import Data, is_named
from ackd.teachers import ModelTeacher
from ackd.types import ModelDims, Teacher

logger = logging.getLogger("ackd")

Source: TypeAlias = str | Path | Model | Teacher  # a teacher, or the name of one
StudentSource: TypeAlias = str | Path | Model | models.Config | Callable[[], Model]


def several(teacher: Source | Sequence[Source]) -> list[Source]:
    """The teachers as a list, from one or several.

    Raises:
        InputError: if an element is no valid teacher.
    """
    found = [models.unpacked(one) for one in (teacher if isinstance(teacher, (list, tuple)) else [teacher])]
    for one in found:
        if not (isinstance(one, (str, Path)) or models.is_model(one) or _answers(one)):
            raise InputError(
                f"a teacher is a {type(one).__name__}: give a folder, a hub id, a transformers model, or an object "
                "with the methods of ackd.Teacher"
            )
    return found


def _check_head(given: object, who: str) -> None:
    """Refuses a model without a classifier, as loaded by `AutoModel`."""
    if models.is_model(given) and type(given).__name__.endswith("Model"):
        raise InputError(
            f"the {who} is a {type(given).__name__}, which has no classifier: load it with "
            "AutoModelForSequenceClassification"
        )


def _answers(one: object) -> bool:
    return callable(one) and all(hasattr(one, name) for name in ("shape", "fingerprint", "flops"))


def shown(source: object) -> str:
    """The name of a model in messages."""
    if isinstance(source, (str, Path)):
        return str(source)
    named = getattr(source, "name_or_path", "")
    return named or f"a {type(source).__name__}"


def folder_of(source: object) -> str | None:
    """The folder or hub id that a model was loaded from; None if unknown, or for a JSON config."""
    if isinstance(source, (str, Path)):
        return None if str(source).endswith(".json") else str(source)
    return getattr(source, "name_or_path", "") or None


def student_of(
    source: StudentSource | None,
    layers: int | None,
    teacher: tuple[Model, str] | None,
    tokenizer: Tokenizer,
    num_labels: int | None,
    init: Init = "even",
    *,
    pooling: models.Pooling | None = None,
) -> tuple[StudentFactory, ModelDims]:
    """The student's factory and sizes; `teacher` is the first teacher's model and name.

    With `pooling`, students are sentence encoders; it is used for models that name no pooling. Without `num_labels`,
    they are causal language models.

    Raises:
        InputError: if the student cannot be created, or does not fit the task or tokenizer.
    """
    if layers is None and init != "even":
        raise InputError("--student-init says which layers a student starts as: give --student-layers with it")
    if source is None:
        if layers is None:
            raise InputError("say what the student is: --student-layers, or --student, or both")
        if teacher is None:
            raise InputError("--student-layers are those of a teacher, and none was named: give --student instead")
        make = models.from_layers(teacher[0], layers, init)
    elif layers is not None and not begins_as_model(source):
        raise InputError(f"{shown(source)} says how many layers the student has: leave --student-layers away")
    else:
        make = _factory(source, num_labels, pooling, tokenizer)
        if layers is not None:
            make = _layers_of(make, layers, init)
    with torch.random.fork_rng():
        model = make()
    if not models.is_model(model):
        raise InputError(f"the student's function made a {type(model).__name__}: let it make a transformers model")
    shape = models.shape_of(model)
    if num_labels is None:
        models.check_causal(model, f"the student {'' if source is None else shown(source)}".rstrip())
    elif pooling is None and not isinstance(source, str) and model.config.num_labels != num_labels:
        raise InputError(
            f"the student has {model.config.num_labels} outputs, and the task {num_labels}: make it with "
            f"num_labels={num_labels}"
        )
    if shape.vocabulary < len(tokenizer):
        name = teacher[1] if source is None and teacher is not None else shown(source)
        raise InputError(
            f"{name} has a vocabulary of {shape.vocabulary}, less than the {len(tokenizer)} tokens of the tokenizer: "
            "take a model and a tokenizer that were made for each other"
        )
    if num_labels is None:  # padding follows the tokens that are read, and no token sees a later one
        return models.padding_with(make, tokenizer.pad_token_id), shape
    return models.padding_with(make, models.padding_of(model, tokenizer)), shape


def begins_as_model(source: StudentSource | None) -> bool:
    """Whether a student starts from an existing model, with its weights and tokenizer."""
    if isinstance(source, (str, Path)):
        return not _is_json(source)
    return models.is_model(source)


def _factory(
    source: StudentSource, num_labels: int | None, pooling: models.Pooling | None, tokenizer: Tokenizer
) -> StudentFactory:
    """The factory of students from a model, config, folder, hub id or function."""
    if num_labels is None and (models.is_config(source) or (isinstance(source, (str, Path)) and _is_json(source))):
        return models.from_config(models.language_config(source, tokenizer), language=True)
    if pooling is None and num_labels is not None:
        _check_head(source, "student")
    if models.is_model(source):
        template = models.whole(copy.deepcopy(source))  # a copy, because the model may also be the frozen teacher
        template = template if pooling is None else models.as_encoder(template, pooling)
        if not any(one.requires_grad for one in template.parameters()):
            template.requires_grad_(True)
        return lambda: copy.deepcopy(template)
    if models.is_config(source):
        assert num_labels is not None
        config = copy.deepcopy(source)
        config.num_labels, config.dtype = num_labels, torch.float32
        return models.from_config(config if pooling is None else models.pooling_config(config, pooling))
    if isinstance(source, (str, Path)):
        if _is_json(source):
            assert num_labels is not None
            config = models.read_config(source, num_labels)
            return models.from_config(config if pooling is None else models.pooling_config(config, pooling))
        return models.from_checkpoint(source, num_labels, pooling=pooling)
    if not callable(source):
        raise InputError(
            f"the student is a {type(source).__name__}: give a folder, a hub id, a transformers model or config, or a "
            "function that makes a model"
        )
    if pooling is not None:
        return lambda: models.as_encoder(source(), pooling)
    return source


def _is_json(source: str | Path) -> bool:
    return str(source).endswith(".json")


def _layers_of(whole: StudentFactory, count: int, init: Init) -> StudentFactory:
    """Students with layers of a checkpoint, which is loaded for each student because its head may be random."""
    return lambda: models.from_layers(whole(), count, init)()


def tokenizer_of(source: Source | StudentSource, given: Tokenizer | None = None) -> Tokenizer:
    """The tokenizer of a model: `given` for a model object, else that of the model's folder.

    Raises:
        InputError: if there is no tokenizer.
    """
    if given is not None and not isinstance(source, (str, Path)):
        return models.padded(given)
    if models.is_model(source) and (its := models.tokenizer_with(source)) is not None:
        return its
    folder = folder_of(source)
    if folder is None:
        raise InputError(f"nothing says in which tokens {shown(source)} reads: hand over its tokenizer with tokenizer=")
    return models.load_tokenizer(folder, padding=True)


def find_tokenizer(
    task: str, teachers: Sequence[Source], student: StudentSource | None, given: Tokenizer | None = None
) -> Tokenizer:
    """The tokenizer of the first teacher, else of the student, else `given`, else of the generated task.

    Raises:
        InputError: if there is no tokenizer.
    """
    if teachers:
        return tokenizer_of(teachers[0], given)
    if student is not None and begins_as_model(student):
        return tokenizer_of(student, given)
    if given is not None:
        return models.padded(given)
    if task not in tasks.EMBEDDED:
        raise InputError(
            f"no teacher was named, nor a student that brings a tokenizer for {task}: "
            "give --teacher, or --student with a folder or a hub id"
        )
    return tasks.embedded_tokenizer(task)


def seen_by(
    teachers: Sequence[Source],
    starts: Sequence[StudentSource | None],
    reward_from: str,
    instead: str = "take --reward-from dev:0.5, or a model of ackd finetune",
) -> tasks.Seen:
    """The training data of all models of a run; logs a warning for models without a complete record.

    Args:
        teachers: the teachers, including those that only provide layers for students.
        starts: models that students start from; a saved model without a classifier has learned no task yet.
        reward_from: the setting `reward_from`.
        instead: advice for the warning.

    Raises:
        InputError: if a model's record of its training data is damaged.
    """
    found = []
    begun: dict[str, tuple[object, bool]] = {shown(one): (one, True) for one in teachers}
    for one in starts:
        if one is not None and begins_as_model(one):
            begun.setdefault(shown(one), (one, False))
    for source, taught in begun.values():
        seen = _said(source)
        if seen is None:
            known = taught or not isinstance(source, (str, Path)) or models.is_classifier(source)
            seen = tasks.UNKNOWN if known else tasks.NOTHING
        if not seen.complete and reward_from == tasks.TRAIN:
            logger.warning(
                "%s does not say all that it was trained on, so it may know the reward split: %s",
                shown(source),
                instead,
            )
        found.append(seen)
    return tasks.together(found)


def _said(source: object) -> tasks.Seen | None:
    """A model's record of its training data, or None."""
    if isinstance(source, (str, Path)):
        return tasks.read_seen(source)
    if models.is_model(source) and (noted := tasks.noted_seen(source)) is not None:
        return noted
    folder = folder_of(source)
    unchanged = folder is not None and models.is_model(source) and models.as_saved(source, folder)
    return tasks.read_seen(folder) if folder is not None and unchanged else None


def teacher_of(
    source: Source,
    device: str,
    precision: Precision,
    tokenizer: Tokenizer | None = None,
    *,
    sentences: bool = False,
    language: bool = False,
) -> tuple[Teacher, Tokenizer]:
    """A teacher and its tokenizer; a loaded teacher is shared between calls, because it never changes.

    Args:
        source: the teacher's folder or hub id, or the teacher itself.
        device: the teacher's device.
        precision: of the teacher's passes.
        tokenizer: the tokenizer of a teacher that is given as an object.
        sentences: whether the teacher is a sentence encoder; a model object is converted in place.
        language: whether the teacher is a causal language model.

    Raises:
        InputError: if there is no such model, or it has no tokenizer.
    """
    if isinstance(source, (str, Path)):
        return _loaded(str(source), device, precision, sentences, language)
    if not sentences and not language:
        _check_head(source, "teacher")
    its = tokenizer_of(source, tokenizer)
    if not models.is_model(source):
        return source, its
    if sentences:
        models.as_encoder(source)
    _check_teacher(models.whole(source, device).eval(), its, shown(source), language=language)
    return ModelTeacher(source, precision=precision), its


@lru_cache(maxsize=4)
def _loaded(
    source: str, device: str, precision: Precision, sentences: bool, language: bool
) -> tuple[ModelTeacher, Tokenizer]:
    pooling = models.read_pooling(models.model_folder(source)) if sentences else None
    model = models.load_model(source, device=device, pooling=pooling, language=language)
    tokenizer = models.load_tokenizer(source, padding=True)
    _check_teacher(model, tokenizer, source, language=language)
    return ModelTeacher(model, precision=precision), tokenizer


def _check_teacher(model: Model, tokenizer: Tokenizer, name: str, *, language: bool) -> None:
    """Refuses a model that cannot answer padded batches."""
    models.shape_of(model)
    if language:
        models.check_causal(model, f"the teacher {name}")
    else:
        models.padding_of(model, tokenizer)


def model_of(teacher: Teacher) -> Model | None:
    """The model of a `ModelTeacher`; None for other teachers."""
    return teacher.model if isinstance(teacher, ModelTeacher) else None


def task_of(
    name: str, tokenizer: Tokenizer, *, data: Data | None = None, dev_data: Data | None = None, **cut: Any
) -> tasks.Task:
    """Loads a task, with the arguments of `ackd.tasks.load`; calls share it if data is given by name."""
    cut["text_columns"] = tuple(cut.get("text_columns", ()))
    read = _task if all(one is None or is_named(one) for one in (data, dev_data)) else _read
    return read(name, tokenizer, data=data, dev_data=dev_data, **cut)


def _read(name: str, tokenizer: Tokenizer, **source: Any) -> tasks.Task:
    if name != tasks.LANGUAGE.name:
        return tasks.load(name, tokenizer, **source)
    data, _ = source.pop("data"), source.pop("seen", None)  # which chunks a model has learned from is not recorded
    return text_task(data, tokenizer, **source)


_task = lru_cache(maxsize=4)(_read)
