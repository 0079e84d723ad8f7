"""Objects that live and work elsewhere: in other processes, on other machines; called by name, answered in turn."""

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
    """Workers of a backend, each with an object that `make` makes there from its number.

    Args:
        backend: `dummy`, in this process, one call after the other; `subproc`, processes of this machine; `torchrun`,
            the ranks of its process group, of which this is rank 0 and the others are in `serve`; `ray`, actors.
        make: what each worker holds; travels by pickle, so it is a function of a module or an object of a class of one.
        count: how many; under torchrun as many as there are ranks.
        address: of a Ray cluster, HOST:PORT; one on this machine for this run alone if None.
        threads: torch's in each worker; None divides those of this process among them, and leaves them as they are
            where workers have a process that was started by others (torchrun) or none (dummy).
        device: where they compute; `device_of` tells each which GPU is its own.
        share_gpu: that several may compute on the same.
        seconds: that a worker may take to begin.

    Raises:
        InputError: if the backend is not known or not to be had, there are too few GPUs, or a worker runs other
            versions.
        WorkerFailed: if an object cannot be made.
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
    """Refuses what `start` would, as far as it can be known before there are workers; arguments are those of `start`.

    Raises:
        InputError: if the backend is not known or not to be had, or there are too few GPUs or processes.
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
    """What the device `auto` is of so many workers: cuda where each has a GPU, of its own or shared, and cpu elsewhere.

    Where GPUs are left unused a line says why; of a Ray cluster nobody here knows what it has.
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
    """Asked in a worker: where it computes, if the device of all of them is `cuda`."""
    if device != "cuda":
        return device
    if backend == "ray":
        return "cuda:0"  # an actor sees no other than its own
    own = int(os.environ["LOCAL_RANK"]) if backend == "torchrun" else worker
    return f"cuda:{own % max(torch.cuda.device_count(), 1)}"


def _check_gpus(device: str, count: int) -> None:
    """Whether each worker of this machine has a GPU of its own, if it wants one."""
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
