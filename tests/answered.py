"""A batch with a student's and several teachers' answers, and what follows from them in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.knowledge import Logits, label_loss
from ackd.types import LABELS, Batch, Knowledge, Outputs
from ackd.weighting.weighting import Answers

WIDTH, TOKENS = 5, 2
Array = NDArray[np.float64]


def terms(teachers: int = 2) -> list[Knowledge]:
    losses: list[Knowledge] = []
    for place in range(teachers):
        losses.append(Logits(temperature=1.0, name=f"logits@{place + 1}"))
        losses[-1].teacher = place
    return losses


def answers(
    losses: Sequence[Knowledge],
    *,
    size: int = 6,
    classes: int = 3,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    scale: float = 2.0,
    progress: float = 0.5,
) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (size,), generator=generator)
    mask = torch.ones(size, TOKENS, dtype=torch.int64)
    batch = Batch(torch.tensor(list(ids or range(size))), {"attention_mask": mask}, labels)
    logits = (scale * torch.randn(size, classes, generator=generator)).requires_grad_()
    student = Outputs(logits, cls={0: torch.randn(size, WIDTH, generator=generator)})
    theirs = {one.name: Outputs(scale * torch.randn(size, classes, generator=generator)) for one in losses}
    student = replace(student, hidden={0: torch.randn(size, TOKENS, WIDTH, generator=generator)})
    for name, one in theirs.items():
        theirs[name] = replace(one, hidden={1: torch.randn(size, TOKENS, WIDTH, generator=generator)})
    each = {one.name: one(student, theirs[one.name], batch) for one in losses}
    return Answers(batch, student, theirs, {LABELS: label_loss(logits, labels), **each}, progress)


def softmax(z: Array) -> Array:
    p = np.exp(z - z.max(-1, keepdims=True))
    shares: Array = p / p.sum(-1, keepdims=True)
    return shares


def numbers(tensor: Tensor | None) -> Array:
    assert tensor is not None
    return np.asarray(tensor.detach().double().numpy(), dtype=np.float64)


def cross_entropy(z: Array, y: NDArray[np.int64]) -> Array:
    return np.asarray(-np.log(softmax(z)[np.arange(len(y)), y]))


def known(given: Answers, losses: Sequence[Knowledge]) -> tuple[Array, Array, Array, Array, Array]:
    """Student's logits and CE, teachers' logits [R, K, C], CE and KL to the student [R, K]."""
    y = given.batch.labels.numpy()
    ours = numbers(given.student.logits)
    theirs = np.stack([numbers(given.teachers[one.name].logits) for one in losses], 1)
    errors = np.stack([cross_entropy(theirs[:, k], y) for k in range(len(losses))], 1)
    p, q = softmax(theirs), softmax(ours)[:, None]
    return ours, cross_entropy(ours, y), theirs, errors, (p * (np.log(p) - np.log(q))).sum(-1)
