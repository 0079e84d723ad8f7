"""A classifier in a folder, as whoever has never heard of the task can use it."""

from __future__ import annotations

from pathlib import Path

from ackd.models import Model, save_model
from ackd.tasks.seen import write_seen
from ackd.tasks.spec import TaskSpec
from ackd.tasks.task import Task


def name_outputs(model: Model, spec: TaskSpec) -> None:
    """Writes into a model's config what its outputs are: the task's classes, or one number."""
    names = spec.classes or (spec.label_column,)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.config.problem_type = "regression" if spec.regression else "single_label_classification"


def save_classifier(folder: str | Path, model: Model, task: Task) -> None:
    """Writes a model that learned a task: weights, a config with the task's classes, tokenizer, and `seen.json`."""
    assert task.tokenizer is not None
    name_outputs(model, task.spec)
    save_model(folder, model, task.tokenizer)
    write_seen(folder, task.seen)
