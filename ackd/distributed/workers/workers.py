"""A set of workers with one object each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from ackd.distributed.workers.host import answer, request, versions
from ackd.distributed.workers.protocol import Channel, Make, WorkerLost
from ackd.errors import InputError

LONGEST = 2e6  # longest timeout in seconds: some backends count milliseconds in 31 bits


class Workers:
    """Workers numbered from 0, each with one object; for each worker, `send` and `receive` alternate.

    Args:
        open: opens a channel to a new worker with the given number.
        make: creates a worker's object.
        count: number of workers.
        threads: torch threads of each worker; None leaves them unchanged.
        seconds: time limit for a worker's start.
        closing: releases resources that all workers share.

    Raises:
        InputError: if a worker has other package versions than this process.
        WorkerFailed: if an object cannot be created.
        WorkerLost: if a worker is lost repeatedly during its start.
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
        self.turns = [threading.Lock() for _ in range(count)]  # for threads: held from a call until its answer
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
        """Starts the workers in parallel; a lost worker gets two more attempts."""
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
        """Starts a call of a method of a worker's object.

        Raises:
            WorkerLost: if the worker has died.
        """
        try:
            self._channels[worker].put(request(method, *args, **kwargs))
        except WorkerLost as lost:
            raise WorkerLost(f"{self.name(worker)} {lost}") from None

    def receive(self, worker: int, seconds: float | None = None) -> Any:
        """Returns the result of the last call; waits at most `seconds`.

        Raises:
            InputError: if the method raised one.
            WorkerFailed: if it raised another exception; `AttributeMissing` if that was an AttributeError.
            WorkerLost: if the worker died, or did not answer in time and was killed.
        """
        try:
            content = self._channels[worker].get(None if seconds is None else min(seconds, LONGEST))
        except WorkerLost as lost:
            self._channels[worker].kill()  # otherwise a late answer would be read as the next one
            raise WorkerLost(f"{self.name(worker)} {lost}") from None
        return answer(content, self.name(worker))

    def name(self, worker: int) -> str:
        """Describes a worker by its number, process id and host."""
        if not self.about[worker]:
            return f"worker {worker}"
        return f"worker {worker} (process {self.about[worker]['pid']} on {self.about[worker]['host']})"

    def restart(self, worker: int) -> None:
        """Kills a worker and starts a new one with the same number and a new object.

        Raises:
            InputError: if the backend cannot restart single workers; the whole run has to be started again.
            WorkerLost: if the new worker is lost as well.
        """
        self._channels[worker].kill()
        self._channels[worker] = self._open(worker)
        for step in (self._greet, self._meet, self._commission, self._await):
            step(worker)

    def close(self) -> None:
        """Ends all workers; further calls do nothing."""
        if not self._channels:
            return
        for channel in self._channels:
            channel.end()
        for channel in self._channels:
            channel.kill()
        self._channels = []
        self._closing()


def _same(worker: int, about: dict[str, str]) -> dict[str, str]:
    """Returns a worker's `about` if its package versions equal those of this process."""
    for name, ours in versions().items():
        if about[name] != ours:
            raise InputError(
                f"worker {worker} on {about['host']} runs {name} {about[name]}, and the learner {ours}: "
                "install the same versions everywhere"
            )
    return about
