"""What runs in a worker, whichever process or machine that is."""

from __future__ import annotations

import logging
import os
import pickle
import platform
import socket
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from ackd.distributed.workers.protocol import AttributeMissing, Make, WorkerFailed
from ackd.errors import InputError, Once

ANSWER, INPUT_ERROR, MISSING, FAILURE = range(4)
END = b""  # instead of a request


class Host:
    """Holds an object and calls its methods as it is asked to; before it holds one, it is asked for its own.

    Args:
        worker: the number under which others know this one.
    """

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._object: object = self

    def about(self) -> dict[str, str]:
        """What runs here, and where."""
        return versions() | {"host": socket.gethostname(), "pid": str(os.getpid())}

    def begin(self, make: Make, threads: int | None) -> None:
        """Makes the object; from now on requests are for it."""
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # for what the object may start itself
            torch.set_num_threads(threads)
        self._object = make(self._worker)

    def do(self, request: bytes) -> bytes:
        """The answer to a request, or what was raised instead."""
        try:
            method, args, kwargs = pickle.loads(request)
            return pickle.dumps((ANSWER, getattr(self._object, method)(*args, **kwargs)))
        except InputError as error:
            return pickle.dumps((INPUT_ERROR, str(error)))
        except AttributeError:
            return pickle.dumps((MISSING, traceback.format_exc()))
        except Exception:
            return pickle.dumps((FAILURE, traceback.format_exc()))


def live(worker: int, receive: Callable[[], bytes], send: Callable[[bytes], object]) -> None:
    """A process that does nothing but what it is asked, until it is told to end."""
    logging.getLogger("ackd").addFilter(Once())
    if worker:  # they would all say the same
        logging.getLogger("ackd").setLevel(logging.ERROR)
    host = Host(worker)
    while (request := receive()) != END:
        send(host.do(request))


def request(method: str, *args: Any, **kwargs: Any) -> bytes:
    """A call, as `Host.do` takes it."""
    return pickle.dumps((method, args, kwargs))


def answer(content: bytes, who: str) -> Any:
    """What `Host.do` said.

    Raises:
        InputError: if that is what was raised there.
        AttributeMissing: if it was an AttributeError.
        WorkerFailed: if something else was.
    """
    kind, value = pickle.loads(content)
    if kind == INPUT_ERROR:
        raise InputError(value)
    if kind in (MISSING, FAILURE):
        raise (AttributeMissing if kind == MISSING else WorkerFailed)(f"{who} failed:\n{value}")
    return value


def versions() -> dict[str, str]:
    """What has to be the same everywhere for results to be."""
    return {
        "ackd": version("ackd"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
