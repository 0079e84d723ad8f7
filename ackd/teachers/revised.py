"""Teachers whose mistakes the labels put right."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ackd.costs import CostTracker
from ackd.knowledge.revision import Where, check_classes, check_revision, revised
from ackd.teachers.wrapper import TeacherWrapper
from ackd.types import Batch, OutputRequest, Outputs, Teacher


class Revised(TeacherWrapper):
    """A teacher whose answers the label's class leads: logits = log p', p' = beta p + (1 - beta) e_y.

    Temperatures, if any, come afterwards. Everything but logits is as the inner teacher answers it. Put it around a
    cache, not into one: answers depend on the labels, which a cache does not look at.

    Args:
        inner: who is asked.
        eta: as in `ackd.knowledge.revision.revised`.
        where: revise the answers that are wrong, or all.

    Raises:
        InputError: for regression (C = 1), an `eta` outside (0, 1), or an unknown `where`.
    """

    def __init__(self, inner: Teacher, eta: float = 0.8, where: Where = "wrong") -> None:
        check_revision(inner.shape.classes, eta, where)
        self.inner = inner
        self.eta, self.where = eta, where

    @property
    def fingerprint(self) -> str:
        """The inner teacher's, and what is done to its answers."""
        return f"{self.inner.fingerprint}-revised-{self.where}-{self.eta!r}"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The outputs asked for, with revised logits."""
        outputs = self.inner(batch, needs, costs)
        if outputs.logits is None:
            return outputs
        with costs.timing("teacher"):
            return replace(outputs, logits=revised(outputs.logits, batch.labels, eta=self.eta, where=self.where))


class Swapped(TeacherWrapper):
    """A teacher that gives the label's class what it gave its likeliest, and the other way round (probability shift).

    Everything but logits is as the inner teacher answers it.

    Args:
        inner: who is asked.

    References:
        Wen et al., Preparing Lessons: Improve Knowledge Distillation with Better Supervision, 2019,
        https://arxiv.org/abs/1911.07471

    Raises:
        InputError: for regression (C = 1).
    """

    def __init__(self, inner: Teacher) -> None:
        check_classes(inner.shape.classes, "swap")
        self.inner = inner

    @property
    def fingerprint(self) -> str:
        """The inner teacher's, and what is done to its answers."""
        return f"{self.inner.fingerprint}-swapped"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The outputs asked for, with swapped logits."""
        outputs = self.inner(batch, needs, costs)
        if outputs.logits is None:
            return outputs
        with costs.timing("teacher"):
            return replace(outputs, logits=swapped(outputs.logits, batch.labels))


def swapped(logits: Tensor, labels: Tensor) -> Tensor:
    """`z_y` and `max z` exchanged, [B, C] from [B, C] and [B] classes."""
    best, place = logits.max(-1, keepdim=True)
    own = logits.gather(-1, labels[:, None])
    return logits.scatter(-1, place, own).scatter(-1, labels[:, None], best)
