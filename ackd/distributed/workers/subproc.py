"""Backend `subproc`: one process per worker, on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from ackd.distributed.workers.host import END, live
from ackd.distributed.workers.protocol import WorkerLost

PATIENCE = 5.0  # seconds for a process to end by itself


class Process:
    """A `Host` in a new (spawned) process, which always ends when this process ends.

    Args:
        worker: the worker's number.
        threads: OMP_NUM_THREADS of the process.
    """

    def __init__(self, worker: int, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_live, args=(worker, theirs), name=f"ackd-worker-{worker}", daemon=True)
        with _environment(OMP_NUM_THREADS=str(threads)):
            self._process.start()
        theirs.close()  # so that the pipe closes when the worker process ends
        self._until = 0.0  # deadline for the process to end by itself

    def put(self, request: bytes) -> None:
        """Sends the request through the pipe."""
        try:
            self._connection.send_bytes(request)
        except OSError:
            raise WorkerLost(self._end()) from None

    def get(self, seconds: float | None) -> bytes:
        """Waits for the answer in the pipe."""
        try:
            if not self._connection.poll(seconds):
                raise WorkerLost(f"did not answer within {seconds:g} s")
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise WorkerLost(self._end()) from None

    def end(self) -> None:
        """Requests that the process end by itself."""
        with suppress(OSError):
            self._connection.send_bytes(END)
            self._until = time.monotonic() + PATIENCE

    def kill(self) -> None:
        """Kills the process with SIGKILL; after `end`, waits up to `PATIENCE` seconds first."""
        self._process.join(max(self._until - time.monotonic(), 0.0))
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _end(self) -> str:
        self._process.join(PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _live(worker: int, connection: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles signals; this process ends with it
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        live(worker, connection.recv_bytes, connection.send_bytes)
    except (EOFError, OSError):  # the parent has ended
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)  # at once: unfinished work must not write into the folder of a resumed run


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
