"""Saves a model so that it can be used without knowing the task."""

from __future__ import annotations

from pathlib import Path

from ackd.models import Model, save_encoder, save_model
from ackd.tasks.seen import write_seen
from ackd.tasks.spec import TaskSpec
from ackd.tasks.task import Task


def name_outputs(model: Model, spec: TaskSpec) -> None:
    """Sets the names of the outputs in a model's config: the task's classes, or the label column of regression."""
    names = spec.classes or (spec.label_column,)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.config.problem_type = "regression" if spec.regression else "single_label_classification"


def save_trained(folder: str | Path, model: Model, task: Task) -> None:
    """Saves a model trained on a task: weights, config with the task's classes, tokenizer, and `seen.json`.

    A sentence encoder is saved in the layout of sentence-transformers.
    """
    assert task.tokenizer is not None
    if task.spec.sentences:
        assert task.max_length is not None
        save_encoder(folder, model, task.tokenizer, task.max_length)
    else:
        if not task.spec.language:
            name_outputs(model, task.spec)
        save_model(folder, model, task.tokenizer)
    write_seen(folder, task.seen)
