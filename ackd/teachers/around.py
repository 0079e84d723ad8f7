"""A teacher around a teacher."""

from __future__ import annotations

from ackd.types import Needs, Shape, Teacher


class Around:
    """Asks another teacher, and keeps or changes what that answers.

    Rewards and reports compare with the innermost: a changed answer may know the labels.
    """

    inner: Teacher

    @property
    def shape(self) -> Shape:
        """The inner teacher's sizes."""
        return self.inner.shape

    def price(self, needs: Needs, size: int, length: int) -> float:
        """FLOPs of the inner teacher's answer."""
        return self.inner.price(needs, size, length)


def uncached(teacher: Teacher) -> Teacher:
    """Who answers behind everything that keeps or changes answers, and so about any example and by itself."""
    return uncached(teacher.inner) if isinstance(teacher, Around) else teacher
