"""The part of every backend that runs in a worker."""

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
from ackd.numerics.memory import uncollected

ANSWER, INPUT_ERROR, MISSING, FAILURE = range(4)
END = b""  # instead of a request


class Host:
    """Holds an object and executes requests to call its methods.

    Before `begin`, requests call the host's own methods.

    Args:
        worker: the worker's number.
    """

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._object: object = self

    def about(self) -> dict[str, str]:
        """Package versions, host name and process id."""
        return versions() | {"host": socket.gethostname(), "pid": str(os.getpid())}

    def begin(self, make: Make, threads: int | None) -> None:
        """Creates the object; all later requests call its methods."""
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes that the object starts
            torch.set_num_threads(threads)
        self._object = make(self._worker)

    def do(self, request: bytes) -> bytes:
        """Executes a request; returns the pickled result or error."""
        try:
            with uncollected():  # the first request imports torch and transformers
                method, args, kwargs = pickle.loads(request)
            return pickle.dumps((ANSWER, getattr(self._object, method)(*args, **kwargs)))
        except InputError as error:
            return pickle.dumps((INPUT_ERROR, str(error)))
        except AttributeError:
            return pickle.dumps((MISSING, traceback.format_exc()))
        except Exception:
            return pickle.dumps((FAILURE, traceback.format_exc()))


def live(worker: int, receive: Callable[[], bytes], send: Callable[[bytes], object]) -> None:
    """Main loop of a worker process: executes requests until `END` arrives."""
    logging.getLogger("ackd").addFilter(Once())
    if worker:  # all workers would log the same messages
        logging.getLogger("ackd").setLevel(logging.ERROR)
    host = Host(worker)
    while (request := receive()) != END:
        send(host.do(request))


def request(method: str, *args: Any, **kwargs: Any) -> bytes:
    """Pickles a call for `Host.do`."""
    return pickle.dumps((method, args, kwargs))


def answer(content: bytes, who: str) -> Any:
    """Unpickles a result of `Host.do`.

    Raises:
        InputError: if the call raised one.
        AttributeMissing: if the call raised an AttributeError.
        WorkerFailed: if the call raised another exception.
    """
    kind, value = pickle.loads(content)
    if kind == INPUT_ERROR:
        raise InputError(value)
    if kind in (MISSING, FAILURE):
        raise (AttributeMissing if kind == MISSING else WorkerFailed)(f"{who} failed:\n{value}")
    return value


def versions() -> dict[str, str]:
    """The versions that must be equal on all workers for reproducible results."""
    return {
        "ackd": version("ackd"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
