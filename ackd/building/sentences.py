"""Prepares the distillation of sentence encoders, whose labels are the first teacher's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import LogitsCosine, LogitsMse
from ackd.knowledge.response import Response
from ackd.presets import Preset
from ackd.split import Split
from ackd.tasks import Task
from ackd.teachers import Narrowed, principal
from ackd.training.measuring import answers
from ackd.types import ModelDims, Teacher

FITTED = 20_000  # most sentences for fitting principal components, as in sentence-transformers' script
WORKS = "--preset minilm, minilmv2 or rkd"


def check_method(method: Preset, preset: str | None) -> None:
    """Checks that a method does not need classes.

    Raises:
        InputError: if a loss compares distributions over classes, or a preset uses labels or probabilities.
    """
    for one in method.knowledge:
        if isinstance(one, Response) and not isinstance(one, LogitsMse | LogitsCosine):
            raise InputError(
                f"{one.name!r} compares distributions over classes, and embeddings have no classes: use logits-mse, "
                f"logits-cosine or similarity, or {WORKS}"
            )
    if any(one is not None for one in (method.weighting, method.example_filter, method.revise, method.weigh)):
        raise InputError(f"the preset {preset!r} needs classes, and embeddings have none: use {WORKS}")


def narrowed(
    teachers: Sequence[Teacher], task: Task, student: ModelDims, device: torch.device, costs: CostTracker
) -> list[Teacher]:
    """The teachers, with embeddings projected to the student's width; adds the costs of the projection's fit.

    Raises:
        InputError: if the student's embeddings are wider than a teacher's.
    """
    count = min(FITTED, len(task.train))
    sample = task.train.select(np.arange(count) * len(task.train) // count)
    return [
        one
        if one.shape.classes == student.classes
        else Narrowed(one, principal(_embeddings(one, sample, device, costs), student.classes))
        for one in teachers
    ]


def labelled(task: Task, teacher: Teacher, device: torch.device, costs: CostTracker) -> Task:
    """The task with a teacher's embeddings as labels, [N, d], in the training and reward splits.

    The embeddings are computed once, before the first step; their costs are added to `costs`.

    Raises:
        InputError: if an embedding is NaN or infinite.
    """

    def embedded(split: Split) -> Split:
        embeddings = _embeddings(teacher, split, device, costs).astype(np.float32)
        if not np.isfinite(embeddings).all():
            raise InputError("the teacher's embeddings are NaN or infinite: its weights are damaged; use another copy")
        return split.labelled(embeddings)

    reward = embedded(task.reward) if len(task.reward) else task.reward
    return replace(task, train=embedded(task.train), reward=reward)


def _embeddings(teacher: Teacher, split: Split, device: torch.device, costs: CostTracker) -> NDArray[np.float64]:
    """A teacher's embeddings of a split, [N, d]."""
    with costs.timing("teacher"):
        embeddings, flops = answers(teacher, split, device, teacher.shape.vocabulary)
    costs.add_flops("teacher", flops)
    costs.teacher_queries += len(split)
    return embeddings
