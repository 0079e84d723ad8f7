"""`ray`: an actor for each worker, wherever Ray finds room."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

from ackd.errors import InputError, reason
from ackd.stopping import handlers_kept
from ackd.workers.host import Host
from ackd.workers.protocol import WorkerLost

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE = 10.0  # seconds for a cluster to answer
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # how a client of gRPC begins


class Actor:
    """A host in an actor of Ray.

    Args:
        ray: the library.
        worker: its number.
        cpus: that Ray keeps for it.
        gpus: likewise.
    """

    def __init__(self, ray: Any, worker: int, cpus: int, gpus: float) -> None:
        self._ray, self._answer = ray, None
        self._actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Host).remote(worker)

    def put(self, request: bytes) -> None:
        """Calls the actor; a lost one is noticed when its answer is waited for."""
        self._answer = self._actor.do.remote(request)

    def get(self, seconds: float | None) -> bytes:
        """Waits for the answer."""
        try:
            content: bytes = self._ray.get(self._answer, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            raise WorkerLost(f"did not answer within {seconds:g} s") from None
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(f"is gone ({type(error).__name__})") from None
        return content

    def end(self) -> None:
        """It has nothing to save."""

    def kill(self) -> None:
        """Its process ends."""
        self._ray.kill(self._actor, no_restart=True)


def connect(
    address: str | None, count: int, *, cpus: int, gpus: bool = False, share_gpus: bool = False
) -> tuple[Any, bool, float]:
    """Ray, whether it was begun here, and how much of a GPU each worker has.

    Args:
        address: of a cluster, HOST:PORT; one of this machine alone if None.
        count: of workers.
        cpus: that each wants.
        gpus: whether each wants one.
        share_gpus: or a part of one.

    Raises:
        InputError: if Ray is not installed, nobody answers, or the cluster is too small.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError:
        raise InputError('the backend ray needs Ray, which is not installed: pip install "ackd[ray]"') from None
    if address is not None:
        _knock(address)
    begun = not ray.is_initialized()
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if begun and address is None:
        with handlers_kept():
            ray.init(num_cpus=max(count * cpus, os.cpu_count() or 1), include_dashboard=False, **quiet)
    elif begun:
        try:
            with handlers_kept():
                ray.init(address=address, **quiet)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(_silent(address, error)) from None
    library: Any = ray  # parts of it have no types
    there: Mapping[str, float] = library.cluster_resources()
    try:
        part = min(there.get("GPU", 0.0) // 0.01 * 0.01 / count, 1.0) if share_gpus else 1.0
        _check_room(there, "CPU", count, float(cpus), "")
        _check_room(there, "GPU", count, part if gpus else 0.0, ", or let them share with --share-gpu")
    except InputError:
        if begun:
            ray.shutdown()
        raise
    return ray, begun, part if gpus else 0.0


def _check_room(there: Mapping[str, float], what: str, count: int, each: float, otherwise: str) -> None:
    if there.get(what, 0.0) < count * each or (what == "GPU" and each and not there.get(what)):
        raise InputError(
            f"the Ray cluster has {there.get(what, 0.0):g} {what}s, and {count} workers want {count * each:g}: "
            f"give fewer --workers, add nodes{otherwise}"
        )


def _knock(address: str) -> None:
    """Whether anybody listens there, before Ray tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(f"the Ray address {address!r} cannot be read: write HOST:PORT, as ray start --head prints it")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as there:
            there.sendall(HTTP2)
            if there.recv(9)[3:4] != bytes([4]):  # no settings
                raise OSError("whoever listens there is no Ray")
    except OSError as error:
        raise InputError(_silent(address, error)) from None


def _silent(address: str | None, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {address} ({reason(error)}): start one with ray start --head, or leave "
        "--ray-address"
    )
