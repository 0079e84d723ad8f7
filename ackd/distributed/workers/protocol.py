"""What a backend brings: a channel to each worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Make = Callable[[int], object]  # from a worker's number to the object that it holds; travels by pickle


class WorkerFailed(RuntimeError):  # noqa: N818 - what happened, told in the past tense
    """The object raised; the message ends with the traceback as it was where it happened."""


class AttributeMissing(WorkerFailed, AttributeError):  # noqa: N818
    """The object raised an AttributeError, as where an attribute or a method is missing."""


class WorkerLost(RuntimeError):  # noqa: N818
    """The worker died, or did not answer in time; `Workers.restart` brings back another with a new object."""


class Channel(Protocol):
    """The way to a `Host` that runs in a worker: a request goes there, its answer comes back, then the next."""

    def put(self, request: bytes) -> None:
        """Sends a request.

        Raises:
            WorkerLost: if the worker is no more.
        """
        ...

    def get(self, seconds: float | None) -> bytes:
        """The answer; waits `seconds` at most.

        Raises:
            WorkerLost: if the worker died or did not answer in time; the message goes on after its name.
        """
        ...

    def end(self) -> None:
        """Asks the worker to end; `kill` comes after that."""
        ...

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        ...
