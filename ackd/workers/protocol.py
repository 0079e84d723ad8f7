"""What every backend of workers can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Make = Callable[[int], object]  # from a worker's number to the object that it holds; travels by pickle


class WorkerFailed(RuntimeError):  # noqa: N818 - what happened, told in the past tense
    """The object raised; the message ends with the traceback as it was where it happened."""


class WorkerLost(RuntimeError):  # noqa: N818
    """The worker died, or did not answer in time; `Workers.restart` brings back another with a new object."""


class Workers(Protocol):
    """Some objects, each in a worker of its own, numbered from 0; `send` and `receive` take turns for each of them."""

    def __len__(self) -> int: ...

    def send(self, worker: int, method: str, *args: Any, **kwargs: Any) -> None:
        """Begins a call of a method of a worker's object.

        Raises:
            WorkerLost: if the worker is no more.
        """
        ...

    def receive(self, worker: int, seconds: float | None = None) -> Any:
        """What the call that was begun last came to; waits `seconds` at most.

        Raises:
            WorkerFailed: if the method raised; an `InputError` comes as what it was.
            WorkerLost: if the worker died or did not answer in time.
        """
        ...

    def restart(self, worker: int) -> None:
        """A new worker with a new object under that number; what was left of the old one is killed.

        Raises:
            WorkerLost: if this backend cannot, and the whole run has to be started again.
        """
        ...

    def close(self) -> None:
        """Ends all workers."""
        ...
