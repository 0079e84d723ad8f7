"""Evenly spaced numbers."""

from __future__ import annotations


def evenly(count: int, layers: int) -> tuple[int, ...]:
    """Chooses `count` of `layers` layers at even distances, including the last one.

    Example:
        >>> evenly(3, 6)
        (1, 3, 5)
    """
    return tuple(round((i + 1) * layers / count) - 1 for i in range(count))
