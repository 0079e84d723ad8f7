"""Many jobs, a few workers, and answers in the order of the jobs, whoever is lost on the way."""

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

TRIES = 3  # of a job whose worker is lost
PATIENCE = 4.0  # seconds that workers have to save, when this process is asked to end


class _Stopped:
    """The answer of a worker that was asked to end."""


def answering(do: Callable[[T, Job], R]) -> Callable[[T, Job], R]:
    """A method that does a job in a worker: a signal ends it where it can save, and is told to who waits."""

    @wraps(do)
    def call(self: T, job: Job) -> R:
        if listening():  # in the process that waits
            return do(self, job)
        try:
            with stoppable():
                return do(self, job)
        except Stopped:
            return _Stopped()  # type: ignore[return-value]  # `run_jobs` knows it

    return call


def this_worker() -> str:
    """How people can find the process that asks."""
    return f"the worker in process {os.getpid()} on {socket.gethostname()}"


_Done = tuple[int, Any]  # the number of a job, and its answer or what was raised


def run_jobs(
    workers: Workers,
    jobs: Sequence[Job],
    *,
    seconds: float | None = None,
    on_answer: Callable[[Job, Any], object] = lambda job, answer: None,
) -> Iterator[tuple[Job, Any]]:
    """Each job with its answer, in the order of the jobs; an answer waits for those of the jobs before it.

    Args:
        workers: each holds an object whose method `do`, `answering`, takes a job; a job that was begun before goes on.
        jobs: which travel by pickle.
        seconds: that a worker may take over a job before it counts as lost.
        on_answer: is told of each as it comes, as for a progress bar.

    Raises:
        InputError: if a job raised one, or was lost with its worker 3 times.
        WorkerFailed: if a job raised something else.
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
    """A thread for each worker, which waits for its answers and gives it the next job."""

    def __init__(self, workers: Workers, count: int, seconds: float | None) -> None:
        self.workers, self.seconds = workers, seconds
        self.done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self.over = threading.Event()
        self._left = deque(range(count))
        self._busy: set[int] = set()  # workers with a job

    def start(self, jobs: Sequence[Any]) -> None:
        """All of them begin."""
        for worker in range(min(len(self.workers), len(jobs))):
            threading.Thread(target=self._work, args=(worker, jobs), daemon=True).start()

    def interrupt(self) -> None:
        """Asks the workers of this machine to save what they do, and kills those that take too long, or just begin."""
        self.over.set()
        until, here = time.monotonic() + PATIENCE, socket.gethostname()
        for worker in list(self._busy):
            about = self.workers.about[worker]
            if about["host"] == here and int(about["pid"]) != os.getpid():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(about["pid"]), signal.SIGTERM)
        while self._busy and time.monotonic() < until:
            time.sleep(0.02)
        for child in multiprocessing.active_children():  # whose end would be waited for otherwise
            child.kill()

    def _work(self, worker: int, jobs: Sequence[Any]) -> None:
        while not self.over.is_set():
            try:
                number = self._left.popleft()
            except IndexError:
                return
            try:
                with self.workers.turns[worker]:  # after the job that it may still be at for another call
                    answer = self._do(worker, jobs[number])
                self.done.put((number, answer))
            except BaseException as error:
                self.done.put((number, error))
                return

    def _do(self, worker: int, job: Any) -> Any:
        """The answer, from as many workers of that number as it takes."""
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
