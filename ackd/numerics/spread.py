"""Numbers that are evenly spread."""

from __future__ import annotations


def evenly(count: int, layers: int) -> tuple[int, ...]:
    """`count` of `layers` layers at even distances, the last one included.

    Example:
        >>> evenly(3, 6)
        (1, 3, 5)
    """
    return tuple(round((i + 1) * layers / count) - 1 for i in range(count))
