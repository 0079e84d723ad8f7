"""The interface of a backend: a channel to each worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Make = Callable[[int], object]  # creates a worker's object from the worker's number; it is pickled


class WorkerFailed(RuntimeError):  # noqa: N818 - what happened, told in the past tense
    """The object raised an exception; the message ends with the worker's traceback."""


class AttributeMissing(WorkerFailed, AttributeError):  # noqa: N818
    """The object raised an AttributeError, e.g. for a missing method."""


class WorkerLost(RuntimeError):  # noqa: N818
    """The worker died or did not respond in time; `Workers.restart` starts a new one with a new object."""


class Channel(Protocol):
    """A connection to a `Host` in a worker; each request is answered before the next one is sent."""

    def put(self, request: bytes) -> None:
        """Sends a request.

        Raises:
            WorkerLost: if the worker has died.
        """
        ...

    def get(self, seconds: float | None) -> bytes:
        """Returns the answer; waits at most `seconds`.

        Raises:
            WorkerLost: if the worker died or did not answer in time; the message has no subject, and `Workers` puts
                the worker's name before it.
        """
        ...

    def end(self) -> None:
        """Requests that the worker end; `kill` is called afterwards."""
        ...

    def kill(self) -> None:
        """Ends the worker at once."""
        ...
