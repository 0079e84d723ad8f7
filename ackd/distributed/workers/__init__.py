"""Objects in other processes or on other machines, with methods that are called by name."""

from __future__ import annotations

import logging
import os

import torch

from ackd.distributed.workers.protocol import Channel, Make, WorkerFailed, WorkerLost
from ackd.distributed.workers.workers import Workers
from ackd.errors import InputError, unknown

__all__ = [
    "BACKENDS",
    "Channel",
    "Make",
    "WorkerFailed",
    "WorkerLost",
    "Workers",
    "automatic",
    "check",
    "device_of",
    "start",
]

logger = logging.getLogger("ackd")

BACKENDS = ("dummy", "subproc", "torchrun", "ray")


def start(
    backend: str,
    make: Make,
    count: int,
    *,
    address: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    share_gpu: bool = False,
    seconds: float | None = 1800.0,
) -> Workers:
    """Starts the workers of a backend; each creates its object with `make(worker number)`.

    Args:
        backend: `dummy` (in this process, one call after the other), `subproc` (processes of this machine), `torchrun`
            (the ranks of its process group: this is rank 0, the others run `serve`), or `ray` (actors).
        make: creates each worker's object. It is pickled, so it must be a module-level function or an object of a
            module-level class.
        count: number of workers; under torchrun the number of ranks.
        address: HOST:PORT of a Ray cluster; None starts one on this machine for this run.
        threads: torch threads of each worker. None divides this process's threads among the workers; with torchrun and
            dummy it leaves them unchanged.
        device: the workers' device; `device_of` returns each worker's own GPU.
        share_gpu: whether several workers may use one GPU.
        seconds: time limit for a worker's start.

    Raises:
        InputError: if the backend is unknown or unavailable, there are too few GPUs, or a worker has other package
            versions.
        WorkerFailed: if an object cannot be created.
        WorkerLost: if a worker cannot be started.
    """
    check(backend, count, address=address, device=device, share_gpu=share_gpu)
    share = threads or max(torch.get_num_threads() // count, 1)
    if backend == "subproc":
        from ackd.distributed.workers.subproc import Process

        return Workers(lambda worker: Process(worker, share), make, count, threads=share, seconds=seconds)
    if backend == "torchrun":
        return _ranks(make, count, threads or torch.get_num_threads(), seconds)
    if backend == "ray":
        from ackd.distributed.workers.actors import Actor, connect

        ray, begun, gpus = connect(address, count, cpus=share, gpus=device.startswith("cuda"), share_gpus=share_gpu)
        return Workers(
            lambda worker: Actor(ray, worker, share, gpus),
            make,
            count,
            threads=share,
            seconds=seconds,
            closing=ray.shutdown if begun else lambda: None,
        )
    from ackd.distributed.workers.inline import Inline

    return Workers(Inline, make, count, threads=threads, seconds=seconds)


def check(
    backend: str, count: int, *, address: str | None = None, device: str = "cpu", share_gpu: bool = False
) -> None:
    """Checks the arguments of `start` before any worker is started.

    Raises:
        InputError: if the backend is unknown or unavailable, or there are too few GPUs or processes.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if count < 1:
        raise InputError(f"{count} workers do nothing: give 1 or more")
    if address is not None and backend != "ray":
        raise InputError(f"a Ray address is of no use to the backend {backend}: leave --ray-address, or take ray")
    if backend == "ray":
        from ackd.distributed.workers.actors import check_address

        check_address(address)
    elif not share_gpu:
        _check_gpus(device, int(os.environ.get("LOCAL_WORLD_SIZE", count)) if backend == "torchrun" else count)
    if backend == "torchrun":
        from ackd.distributed.workers.torchrun import world_size

        if count != world_size():
            raise InputError(
                f"torchrun started {world_size()} processes, and {count} workers are wanted: leave --workers away"
            )


def automatic(backend: str, count: int, *, address: str | None = None, share_gpu: bool = False) -> str:
    """Resolves the device `auto` for `count` workers: cuda if each has a GPU (its own or shared), else cpu.

    If GPUs stay unused, a warning gives the reason. On a Ray cluster the result is cpu, because its GPUs are unknown.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if backend == "ray" and (address or os.environ.get("RAY_ADDRESS")):
        logger.warning("--device auto is cpu on a Ray cluster: give --device cuda if each worker is to have a GPU")
        return "cpu"
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", count)) if backend == "torchrun" else count
    if there >= wanted or (share_gpu and there):
        return "cuda"
    if there:
        logger.warning(
            "--device auto is cpu: %d workers want a GPU each, and there %s %d; --share-gpu lets them share",
            wanted, "is" if there == 1 else "are", there,
        )  # fmt: skip
    return "cpu"


def device_of(backend: str, worker: int, device: str) -> str:
    """The device of one worker, called in the worker; `cuda` becomes its own GPU."""
    if device != "cuda":
        return device
    if backend == "ray":
        return "cuda:0"  # an actor sees only its own GPU
    own = int(os.environ["LOCAL_RANK"]) if backend == "torchrun" else worker
    return f"cuda:{own % max(torch.cuda.device_count(), 1)}"


def _check_gpus(device: str, count: int) -> None:
    """Raises `InputError` if the device is a GPU and this machine has GPUs, but fewer than workers."""
    if not device.startswith("cuda"):
        return
    there = 1 if ":" in device else torch.cuda.device_count()
    if 0 < there < count:
        raise InputError(
            f"{count} workers want a GPU each, and there {'is' if there == 1 else 'are'} {there}: "
            "give fewer --workers, or let them share with --share-gpu"
        )


def _ranks(make: Make, count: int, threads: int, seconds: float | None) -> Workers:
    from ackd.distributed.workers import torchrun

    torchrun.join(seconds)
    return Workers(torchrun.opener(), make, count, threads=threads, seconds=seconds, closing=torchrun.part)
