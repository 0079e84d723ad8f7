"""A teacher around a teacher."""

from __future__ import annotations

from collections.abc import Iterable

from ackd.costs import CostTracker
from ackd.types import ModelDims, OutputRequest, Teacher


class TeacherWrapper:
    """Asks another teacher, and keeps or changes what that answers.

    Rewards and reports compare with the innermost: a changed answer may know the labels.
    """

    inner: Teacher

    @property
    def shape(self) -> ModelDims:
        """The inner teacher's sizes."""
        return self.inner.shape

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of the inner teacher's answer."""
        return self.inner.flops(needs, size, length)

    def flush(self, costs: CostTracker) -> None:
        """Ends what is still on its way behind the answers; these have been read from the device, so it has come."""


def flush(teachers: Iterable[Teacher], costs: CostTracker) -> None:
    """Drains each of them and all that they are put around."""
    for teacher in teachers:
        while isinstance(teacher, TeacherWrapper):
            teacher.flush(costs)
            teacher = teacher.inner


def unwrap(teacher: Teacher) -> Teacher:
    """Who answers behind everything that keeps or changes answers, and so about any example and by itself."""
    return unwrap(teacher.inner) if isinstance(teacher, TeacherWrapper) else teacher
