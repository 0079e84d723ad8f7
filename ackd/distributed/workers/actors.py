"""Backend `ray`: one actor per worker, on any node with free resources."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ackd.distributed.workers.host import Host
from ackd.distributed.workers.protocol import WorkerLost
from ackd.errors import InputError, reason
from ackd.runs.stopping import handlers_kept

logger = logging.getLogger("ackd")

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE = 10.0  # seconds for a cluster to respond
CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # every cluster's head node responds to this call


class Actor:
    """A `Host` in a Ray actor.

    Args:
        ray: the library.
        worker: the worker's number.
        cpus: CPUs that Ray reserves for the worker.
        gpus: GPUs that Ray reserves for the worker.
    """

    def __init__(self, ray: Any, worker: int, cpus: int, gpus: float) -> None:
        self._ray, self._answer = ray, None
        self._actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Host).remote(worker)

    def put(self, request: bytes) -> None:
        """Calls the actor; `get` notices if it is lost."""
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
        """Does nothing: an actor has nothing to save."""

    def kill(self) -> None:
        """Kills the actor's process."""
        self._ray.kill(self._actor, no_restart=True)


def connect(
    address: str | None, count: int, *, cpus: int, gpus: bool = False, share_gpus: bool = False
) -> tuple[Any, bool, float]:
    """Connects to Ray; call `check_address` first.

    Returns the module `ray`, whether this call started Ray, and the GPUs (or fraction of one) of each worker.

    Args:
        address: HOST:PORT of a cluster; None starts one on this machine.
        count: number of workers.
        cpus: CPUs of each worker.
        gpus: whether each worker needs a GPU.
        share_gpus: whether workers may share a GPU.

    Raises:
        InputError: if no cluster responds, or it is too small.
    """
    import ray  # after `check_address`, which finds out whether the cluster needs a token

    address = _address(address)
    begun = not ray.is_initialized()
    if begun:
        local: dict[str, Any] = {"num_cpus": max(count * cpus, os.cpu_count() or 1), "include_dashboard": False}
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            with handlers_kept():
                ray.init(address=address or "local", **quiet, **({} if address else local))
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(_silent(address, error)) from None
    library: Any = ray  # not fully typed
    nodes: list[Mapping[str, float]] = [node["Resources"] for node in library.nodes() if node["Alive"]]
    every = sum(node.get("GPU", 0.0) for node in nodes)
    part = min(every / count // 0.01 * 0.01, 1.0) if gpus and share_gpus else float(gpus)
    try:
        _check_room(nodes, "CPU", count, float(cpus), "")
        if gpus:
            _check_room(nodes, "GPU", count, part, ", or let them share with --share-gpu")
    except InputError:
        if begun:
            ray.shutdown()
        raise
    free = library.available_resources().get("CPU", 0.0)
    if free < count * cpus:
        logger.warning("of the Ray cluster %g CPUs are free: workers begin when there is room for them", free)
    return ray, begun, part


def check_address(address: str | None) -> None:
    """Checks that Ray is installed and that a cluster responds at the address.

    Raises:
        InputError: if not.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    if find_spec("ray") is None:
        raise InputError('the backend ray needs Ray, which is not installed: pip install "ackd[ray]"')
    address = _address(address)
    if address is not None:
        _knock(address)


def _address(given: str | None) -> str | None:
    """The cluster's address: the argument, or else RAY_ADDRESS."""
    return given or os.environ.get("RAY_ADDRESS") or None


def _check_room(nodes: Sequence[Mapping[str, float]], what: str, count: int, each: float, otherwise: str) -> None:
    there = [node.get(what, 0.0) for node in nodes]
    if not each or sum(int(one / each + 1e-6) for one in there) < count:
        raise InputError(
            f"the Ray cluster has {' + '.join(f'{one:g}' for one in there)} {what}s on its nodes, and {count} workers "
            f"want {each or 1:g} each: give fewer --workers, add nodes{otherwise}"
        )


def _knock(address: str) -> None:
    """Checks that a cluster responds, because Ray itself would try for minutes; sets RAY_AUTH_MODE if required."""
    import grpc  # Ray's protocol

    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(f"the Ray address {address!r} cannot be read: write HOST:PORT, as ray start --head prints it")
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(CALL)(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise InputError(_silent(address, ConnectionError(error.details()))) from None
            os.environ.setdefault("RAY_AUTH_MODE", "token")


def _silent(address: str | None, error: Exception) -> str:
    if address is None:
        return f"Ray cannot be started on this machine ({reason(error)}): look for what is left of an earlier one"
    return (
        f"no Ray cluster answers at {address} ({reason(error)}): start one with ray start --head, or leave "
        "--ray-address"
    )
