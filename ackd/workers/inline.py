"""Workers that are no others: this process does each call as it is received."""

from __future__ import annotations

from typing import Any

from ackd.workers.protocol import Make


class Inline:
    """Objects in this process, one call after the other.

    Args:
        make: makes the object of each.
        count: how many.
    """

    def __init__(self, make: Make, count: int) -> None:
        self._make = make
        self._objects = [make(worker) for worker in range(count)]
        self._calls: dict[int, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def send(self, worker: int, method: str, *args: Any, **kwargs: Any) -> None:
        """Remembers the call."""
        self._calls[worker] = method, args, kwargs

    def receive(self, worker: int, seconds: float | None = None) -> Any:
        """Does it; what it raises comes as it is, and nobody can look at the clock meanwhile."""
        method, args, kwargs = self._calls.pop(worker)
        return getattr(self._objects[worker], method)(*args, **kwargs)

    def restart(self, worker: int) -> None:
        """A new object."""
        self._objects[worker] = self._make(worker)

    def close(self) -> None:
        """There is nothing to end."""
