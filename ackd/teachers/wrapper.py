"""Base class of teachers that wrap another teacher."""

from __future__ import annotations

from collections.abc import Iterable

from ackd.costs import CostTracker
from ackd.types import ModelDims, OutputRequest, Teacher


class TeacherWrapper:
    """Caches or changes the outputs of an inner teacher.

    Rewards and reports compare with the innermost teacher, because changed outputs may contain the labels.
    """

    inner: Teacher

    @property
    def shape(self) -> ModelDims:
        """The inner teacher's sizes."""
        return self.inner.shape

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of the inner teacher."""
        return self.inner.flops(needs, size, length)

    def flush(self, costs: CostTracker) -> None:
        """Writes pending cache entries; the GPU copies have finished."""


def flush(teachers: Iterable[Teacher], costs: CostTracker) -> None:
    """Flushes each teacher and all teachers inside it."""
    for teacher in teachers:
        while isinstance(teacher, TeacherWrapper):
            teacher.flush(costs)
            teacher = teacher.inner


def unwrap(teacher: Teacher) -> Teacher:
    """The innermost teacher, which can run on any example."""
    return unwrap(teacher.inner) if isinstance(teacher, TeacherWrapper) else teacher
