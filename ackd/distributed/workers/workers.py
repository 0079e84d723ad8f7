"""Some objects, each in a worker of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from ackd.distributed.workers.host import answer, request, versions
from ackd.distributed.workers.protocol import Channel, Make, WorkerLost
from ackd.errors import InputError

LONGEST = 2e6  # seconds that can be waited for: some backends count them in milliseconds and 31 bits


class Workers:
    """Objects that live and work elsewhere, numbered from 0; `send` and `receive` take turns for each of them.

    Args:
        open: a channel to a new worker of that number.
        make: makes the object of each.
        count: how many.
        threads: torch's, in each of them; None leaves it as it is.
        seconds: that a worker may take to begin.
        closing: ends what all of them share.

    Raises:
        InputError: if a worker runs other versions than this process.
        WorkerFailed: if an object cannot be made.
        WorkerLost: if a worker is lost before it has begun, again and again.
    """

    def __init__(
        self,
        open: Callable[[int], Channel],
        make: Make,
        count: int,
        *,
        threads: int | None = None,
        seconds: float | None = None,
        closing: Callable[[], object] = lambda: None,
    ) -> None:
        self._open, self._begin = open, request("begin", make, threads)
        self._seconds, self._closing = seconds, closing
        self._channels: list[Channel] = []
        self.about: list[dict[str, str]] = [{} for _ in range(count)]  # versions, host and pid of each
        self.turns = [threading.Lock() for _ in range(count)]  # held from a call to its answer, where threads call
        try:
            for worker in range(count):
                self._channels.append(open(worker))
            self._start(range(count))
        except BaseException:
            for channel in self._channels:
                channel.kill()
            closing()
            raise

    def _start(self, workers: Iterable[int]) -> None:
        """Has them begin side by side; one that is lost on the way has another two tries."""
        lost: list[int] = []
        for step in (self._greet, self._meet, self._commission, self._await):
            for worker in [worker for worker in workers if worker not in lost]:
                try:
                    step(worker)
                except WorkerLost:
                    lost.append(worker)
        for worker in lost:
            try:
                self.restart(worker)
            except WorkerLost:
                self.restart(worker)

    def _greet(self, worker: int) -> None:
        self.send(worker, "about")

    def _meet(self, worker: int) -> None:
        self.about[worker] = _same(worker, self.receive(worker, self._seconds))

    def _commission(self, worker: int) -> None:
        self._channels[worker].put(self._begin)

    def _await(self, worker: int) -> None:
        self.receive(worker, self._seconds)

    def __len__(self) -> int:
        return len(self._channels)

    def send(self, worker: int, method: str, *args: Any, **kwargs: Any) -> None:
        """Begins a call of a method of a worker's object.

        Raises:
            WorkerLost: if the worker is no more.
        """
        try:
            self._channels[worker].put(request(method, *args, **kwargs))
        except WorkerLost as lost:
            raise WorkerLost(f"{self.name(worker)} {lost}") from None

    def receive(self, worker: int, seconds: float | None = None) -> Any:
        """What the call that was begun last came to; waits `seconds` at most.

        Raises:
            InputError: if the method raised one.
            WorkerFailed: if it raised something else; `AttributeMissing`, which is an AttributeError, if it was one.
            WorkerLost: if the worker died, or did not answer in time and was ended for that.
        """
        try:
            content = self._channels[worker].get(None if seconds is None else min(seconds, LONGEST))
        except WorkerLost as lost:
            self._channels[worker].kill()  # or an answer that comes too late would be taken for the next
            raise WorkerLost(f"{self.name(worker)} {lost}") from None
        return answer(content, self.name(worker))

    def name(self, worker: int) -> str:
        """How people can find it."""
        if not self.about[worker]:
            return f"worker {worker}"
        return f"worker {worker} (process {self.about[worker]['pid']} on {self.about[worker]['host']})"

    def restart(self, worker: int) -> None:
        """A new worker with a new object under that number; what was left of the old one is killed.

        Raises:
            InputError: if this backend cannot, and the whole run has to be started again.
            WorkerLost: if the new one is lost as well.
        """
        self._channels[worker].kill()
        self._channels[worker] = self._open(worker)
        for step in (self._greet, self._meet, self._commission, self._await):
            step(worker)

    def close(self) -> None:
        """Ends all workers, once."""
        if not self._channels:
            return
        for channel in self._channels:
            channel.end()
        for channel in self._channels:
            channel.kill()
        self._channels = []
        self._closing()


def _same(worker: int, about: dict[str, str]) -> dict[str, str]:
    """What a worker says of itself, if it runs what this process runs."""
    for name, ours in versions().items():
        if about[name] != ours:
            raise InputError(
                f"worker {worker} on {about['host']} runs {name} {about[name]}, and the learner {ours}: "
                "install the same versions everywhere"
            )
    return about
