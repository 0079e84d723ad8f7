"""Runs many jobs on a few workers; results come in the order of the jobs, and lost jobs are repeated."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

from ackd.distributed.workers import WorkerLost, Workers
from ackd.errors import InputError
from ackd.runs.stopping import Stopped, listening, stop, stop_asked, stoppable

Job = TypeVar("Job")
T = TypeVar("T")
R = TypeVar("R")

TRIES = 3  # attempts at a job if its worker is lost
PATIENCE = 4.0  # seconds for workers to save when this process has to end


class _Stopped:
    """The result of a worker that a signal has stopped."""


def answering(do: Callable[[T, Job], R]) -> Callable[[T, Job], R]:
    """Decorator of a worker's method that does a job.

    A signal stops the method at a safe point and is reported to the caller.
    """

    @wraps(do)
    def call(self: T, job: Job) -> R:
        if listening():  # in the calling process
            return do(self, job)
        try:
            with stoppable():
                return do(self, job)
        except Stopped:
            return _Stopped()  # type: ignore[return-value]  # `run_jobs` handles it

    return call


def this_worker() -> str:
    """Describes this process by its id and host."""
    return f"the worker in process {os.getpid()} on {socket.gethostname()}"


_Done = tuple[int, Any]  # the index of a job, and its result or exception


def run_jobs(
    workers: Workers,
    jobs: Sequence[Job],
    *,
    seconds: float | None = None,
    on_answer: Callable[[Job, Any], object] = lambda job, answer: None,
) -> Iterator[tuple[Job, Any]]:
    """Yields each job with its result, in the order of the jobs.

    Args:
        workers: each has an object with a method `do(job)`, decorated with `answering`. A job that was started before
            is continued.
        jobs: the jobs; they are pickled.
        seconds: time limit of a job; after that its worker counts as lost.
        on_answer: called with each job and result as soon as it arrives, e.g. for a progress bar.

    Raises:
        InputError: if a job raised one, or its worker was lost 3 times.
        WorkerFailed: if a job raised another exception.
    """
    crew = _Crew(workers, len(jobs), seconds)
    answers: dict[int, Any] = {}
    try:
        crew.start(jobs)
        for number, job in enumerate(jobs):
            while number not in answers:
                which, answer = crew.done.get()
                if isinstance(answer, BaseException):
                    raise answer
                answers[which] = answer
                on_answer(jobs[which], answer)
            yield job, answers.pop(number)
    except KeyboardInterrupt:
        crew.interrupt()
        raise
    finally:
        crew.over.set()


class _Crew:
    """One thread per worker: it sends the worker a job, waits for the result, and sends the next job."""

    def __init__(self, workers: Workers, count: int, seconds: float | None) -> None:
        self.workers, self.seconds = workers, seconds
        self.done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self.over = threading.Event()
        self._left = deque(range(count))
        self._busy: set[int] = set()  # workers with a job

    def start(self, jobs: Sequence[Any]) -> None:
        """Starts the threads."""
        for worker in range(min(len(self.workers), len(jobs))):
            threading.Thread(target=self._work, args=(worker, jobs), daemon=True).start()

    def interrupt(self) -> None:
        """Sends SIGTERM to this machine's busy workers so that they save; then kills all child processes."""
        self.over.set()
        until, here = time.monotonic() + PATIENCE, socket.gethostname()
        for worker in list(self._busy):
            about = self.workers.about[worker]
            if about["host"] == here and int(about["pid"]) != os.getpid():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(about["pid"]), signal.SIGTERM)
        while self._busy and time.monotonic() < until:
            time.sleep(0.02)
        for child in multiprocessing.active_children():  # otherwise this process would wait for their end
            child.kill()

    def _work(self, worker: int, jobs: Sequence[Any]) -> None:
        while not self.over.is_set():
            try:
                number = self._left.popleft()
            except IndexError:
                return
            try:
                with self.workers.turns[worker]:  # the worker may still be busy with a job of another call
                    answer = self._do(worker, jobs[number])
                self.done.put((number, answer))
            except BaseException as error:
                self.done.put((number, error))
                return

    def _do(self, worker: int, job: Any) -> Any:
        """Returns a job's result; restarts a lost worker, up to `TRIES` attempts."""
        lost = ""
        for attempt in range(TRIES):
            if self.over.is_set():
                break
            try:
                if attempt:
                    self.workers.restart(worker)
                self._busy.add(worker)
                self.workers.send(worker, "do", job)
                answer = self.workers.receive(worker, self.seconds)
            except WorkerLost as error:
                lost = str(error)
            else:
                if not isinstance(answer, _Stopped):
                    return answer
                lost = f"{self.workers.name(worker)} was asked to end"
            finally:
                self._busy.discard(worker)
            if stop_asked():
                stop()
        raise InputError(
            f"a job was lost {TRIES} times, at last since {lost}: look for what ends the workers, such as too little "
            "memory; what is done stays"
        )
