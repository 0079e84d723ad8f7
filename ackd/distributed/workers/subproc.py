"""`subproc`: a process for each worker, on this machine."""

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

PATIENCE = 5.0  # seconds to end by itself


class Process:
    """A host in a process of its own, spawned afresh; it ends when this process does, however that happens.

    Args:
        worker: its number.
        threads: that the libraries it loads start with.
    """

    def __init__(self, worker: int, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_live, args=(worker, theirs), name=f"ackd-worker-{worker}", daemon=True)
        with _environment(OMP_NUM_THREADS=str(threads)):
            self._process.start()
        theirs.close()  # so that its end is seen here when the process is no more
        self._until = 0.0  # by when it should have ended

    def put(self, request: bytes) -> None:
        """Sends it through the pipe."""
        try:
            self._connection.send_bytes(request)
        except OSError:
            raise WorkerLost(self._end()) from None

    def get(self, seconds: float | None) -> bytes:
        """Waits for it at the pipe."""
        try:
            if not self._connection.poll(seconds):
                raise WorkerLost(f"did not answer within {seconds:g} s")
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise WorkerLost(self._end()) from None

    def end(self) -> None:
        """Asks it to end by itself."""
        with suppress(OSError):
            self._connection.send_bytes(END)
            self._until = time.monotonic() + PATIENCE

    def kill(self) -> None:
        """By SIGKILL, which it cannot refuse, after the time that it has if it was asked to end."""
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
    for number in (signal.SIGINT, signal.SIGTERM):  # are for the parent, whose end is the end of this
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        live(worker, connection.recv_bytes, connection.send_bytes)
    except (EOFError, OSError):  # the parent is no more
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)  # at once: what is half done must not be written beside a run that was resumed


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
