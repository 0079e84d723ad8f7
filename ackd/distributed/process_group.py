"""Data-parallel training: each process computes on its shard of every batch."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from ackd.distributed.rendezvous import meet
from ackd.errors import InputError
from ackd.runs.stopping import hold

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # by launcher
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
PATIENCE = timedelta(minutes=30)  # timeout for a process that is alive but does not respond
logger = logging.getLogger("ackd")

ENDED = "ackd/ended"  # key of the number of processes that have failed

V = TypeVar("V")


class ProcessLost(Exception):  # noqa: N818 - what happened, told in the past tense
    """Another process of the group has ended or does not respond."""


class Group(Protocol):
    """Processes in lockstep: all of them call the same methods in the same order."""

    rank: int  # of this process, from 0; rank 0 decides and writes all files
    size: int  # number of processes

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's shard of a batch: every `size`-th example, so that lengths are spread evenly."""
        ...

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """All-reduces gradients to their mean over the processes; a gradient that is None on all ranks stays None."""
        ...

    def mean(self, value: Tensor, rows: int) -> tuple[Tensor, int]:
        """The mean over the rows of all ranks, from the mean over this rank's `rows`; and the total number of rows."""
        ...

    def gather(self, value: V) -> list[V]:
        """The values of all ranks, by rank."""
        ...

    def broadcast(self, value: V) -> V:
        """The value of rank 0."""
        ...


class Alone:
    """The group of a single process."""

    rank, size = 0, 1

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the whole batch."""
        return indices

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Leaves the gradients unchanged."""

    def mean(self, value: Tensor, rows: int) -> tuple[Tensor, int]:
        """Returns the arguments."""
        return value, rows

    def gather(self, value: V) -> list[V]:
        """Returns a list with the value."""
        return [value]

    def broadcast(self, value: V) -> V:
        """Returns the value."""
        return value


ALONE = Alone()


class Processes:
    """The processes of `torch.distributed`: its backend transfers tensors, gloo transfers everything else.

    Raises:
        ProcessLost: from any method.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._hosts = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The examples at `rank`, `rank + size`, ..."""
        return indices[self.rank :: self.size]

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """All-reduces all gradients as one tensor, after the backward pass."""
        # a loss without examples on one process has no gradient there
        reached = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        with _listening():
            dist.all_reduce(reached, dist.ReduceOp.MAX, group=self._hosts)
        learning = [p for p, anywhere in zip(parameters, reached.tolist(), strict=True) if anywhere]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        if not gradients:
            return
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        with _listening():
            dist.all_reduce(whole)
        parts = whole.div_(self.size).split([p.numel() for p in learning])
        for parameter, part in zip(learning, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def mean(self, value: Tensor, rows: int) -> tuple[Tensor, int]:
        """Computes the mean with two all-reduces."""
        count = torch.tensor(rows)
        with _listening():
            dist.all_reduce(count, group=self._hosts)
            everywhere = int(count)
            weighted = value * (rows / max(everywhere, 1))
            dist.all_reduce(weighted)
        return weighted, everywhere

    def gather(self, value: V) -> list[V]:
        """Gathers pickled values."""
        values: list[Any] = [None] * self.size
        with _listening():
            dist.all_gather_object(values, value, group=self._hosts)
        return values

    def broadcast(self, value: V) -> V:
        """Broadcasts a pickled value."""
        values = [value]
        with _listening():
            dist.broadcast_object_list(values, group=self._hosts, device=torch.device("cpu"))
        return values[0]


def announce(group: Group, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Rank 0 broadcasts the call; all ranks execute it."""
    if group.rank == 0:
        group.broadcast((name, _on_host(args), _on_host(kwargs)))


def follow(training: Any) -> None:
    """Executes the calls that rank 0 broadcasts, until rank 0 calls this function as well."""
    group: Group = training.group
    if group.rank:
        hold()  # rank 0 handles signals, and needs the other ranks to save
    methods = {getattr(method, "told_as", None): name for name, method in inspect.getmembers(type(training))}
    while (told := group.broadcast(None)) is not None:
        name, args, kwargs = told
        getattr(training, methods[name])(*args, **kwargs)


def launched() -> int:
    """The number of processes that a launcher (accelerate, torchrun, mpirun) started; 1 without one.

    Raises:
        InputError: if accelerate started one process on CPUs although several were requested.
    """
    size = next((int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit()), 1)
    if size == 1 and os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ:
        raise InputError(
            "on CPUs accelerate starts one process alone, however many are asked for: use "
            "`torchrun --nproc-per-node N -m ackd ...`, or `accelerate launch --multi_gpu` with --device cpu"
        )
    return size


def refuse_copies() -> None:
    """Refuses to run a single-process command several times under a launcher.

    Raises:
        InputError: on the first process, if a launcher started several.
        SystemExit: on all other processes.
    """
    if launched() > 1:
        _refuse(
            not any(int(os.environ.get(name, 0)) for name in RANKS),
            f"{launched()} processes were launched of a command that works in one: start it by itself; train and "
            "evaluate take --workers N, or --backend torchrun under torchrun",
        )


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Joins the group of processes that a launcher started, each on its own device of the given kind.

    An exception in one process ends all processes; only the first process to fail reports it.

    Raises:
        InputError: if there are fewer devices than processes.
    """
    if launched() == 1:
        yield ALONE
        return
    group = _processes(device)
    if group.rank:
        logging.getLogger("ackd").setLevel(logging.ERROR)  # rank 0 logs the same messages
    try:
        yield group
    except BaseException as error:
        if not _first_to_end():
            raise SystemExit(2 if isinstance(error, InputError) else 1) from None
        if isinstance(error, ProcessLost):
            print(f"ackd: {error}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        raise
    dist.destroy_process_group()


def automatic(device: str) -> str:
    """Resolves `auto` under a launcher: cuda if each process of this machine can have a GPU, else cpu."""
    if device != "auto" or launched() == 1:
        return device
    local = next((int(os.environ[name]) for name in LOCAL_SIZES if os.environ.get(name, "").isdigit()), launched())
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or there < local:
        if there and not int(os.environ.get("LOCAL_RANK", 0)):
            logger.warning(
                "--device auto is cpu: %d processes want a GPU each, and torch sees %d on this machine", local, there
            )
        return "cpu"
    return "cuda"


def device_of(device: str) -> str:
    """The device of this rank; under a launcher, `cuda` becomes the rank's own GPU."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and launched() > 1 else device


def _processes(device: str) -> Processes:
    from accelerate import PartialState  # slow to import

    size, local = launched(), int(os.environ.get("LOCAL_RANK", 0))
    if device not in ("cpu", "cuda"):
        _refuse(local == 0, f"{size} processes cannot share the device {device!r}: give --device cuda, or cpu")
    if device == "cuda" and local >= torch.cuda.device_count():
        _refuse(
            local == torch.cuda.device_count(),
            f"process {local} of this machine has no GPU of its own, since torch sees {torch.cuda.device_count()}: "
            "start fewer processes, or give --device cpu",
        )
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun or accelerate, which can restart the processes
        store, rank, _ = meet(PATIENCE)
        backend = "gloo" if device == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    _share_threads(size)
    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if state.num_processes != size:
        raise InputError(f"the launcher speaks of {size} processes and {state.num_processes} met: start them anew")
    return Processes()


def _share_threads(size: int) -> None:
    """Divides the threads among the processes unless OMP_NUM_THREADS is set; otherwise accelerate would warn."""
    if os.environ.get("OMP_NUM_THREADS", "0") != "0":
        return
    local = next((int(os.environ[name]) for name in LOCAL_SIZES if os.environ.get(name, "").isdigit()), size)
    torch.set_num_threads(max(torch.get_num_threads() // max(local, 1), 1))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def _refuse(first: bool, sentence: str) -> NoReturn:
    """Raises the error on the first process only; used before the group exists."""
    if not first:
        raise SystemExit(0)  # an error code would end the first process before it prints its message
    raise InputError(sentence)


def _on_host(value: Any) -> Any:
    """Copies tensors to the CPU, where every process can read them."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_host(one) for name, one in value.items()}
    return type(value)(map(_on_host, value)) if type(value) in (list, tuple) else value


@contextmanager
def _listening() -> Iterator[None]:
    """Turns torch's error about a lost process into `ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this run has ended or does not answer: --resume goes on with all of them"
        ) from error


def _first_to_end() -> bool:
    """Whether this process is the first to fail."""
    try:
        return bool(dist.distributed_c10d._get_default_store().add(ENDED, 1) == 1)
    except RuntimeError:  # the process with the store has ended
        return False
