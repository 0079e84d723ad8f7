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

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # what launchers call it
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
PATIENCE = timedelta(minutes=30)  # with a process that is alive and does not answer
logger = logging.getLogger("ackd")

ENDED = "ackd/ended"  # how many processes have ended before their time

V = TypeVar("V")


class ProcessLost(Exception):  # noqa: N818 - what happened, told in the past tense
    """Another process of the group has ended or does not respond."""


class Group(Protocol):
    """Processes in lockstep: each calls the same of these methods in the same order."""

    rank: int  # of this process, from 0; the first one decides, and writes what is written
    size: int  # how many they are

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's shard of a batch: every `size`-th example, so that lengths are spread evenly."""
        ...

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """All-reduces gradients to their mean over the processes; one that is None on all ranks stays None."""
        ...

    def mean(self, value: Tensor, rows: int) -> tuple[Tensor, int]:
        """The mean over the rows of all ranks, given the mean over `rows` here; and the number of all rows."""
        ...

    def gather(self, value: V) -> list[V]:
        """The values of all ranks, by rank."""
        ...

    def broadcast(self, value: V) -> V:
        """The value of rank 0."""
        ...


class Alone:
    """A process without others."""

    rank, size = 0, 1

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """All of it."""
        return indices

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """The gradients as they are."""

    def mean(self, value: Tensor, rows: int) -> tuple[Tensor, int]:
        """The mean as it is."""
        return value, rows

    def gather(self, value: V) -> list[V]:
        """Its own."""
        return [value]

    def broadcast(self, value: V) -> V:
        """Its own."""
        return value


ALONE = Alone()


class Processes:
    """Those of `torch.distributed`: tensors travel by its backend, everything else between the hosts by gloo.

    Raises:
        ProcessLost: by any method.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._hosts = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The examples at `rank`, `rank + size`, ..."""
        return indices[self.rank :: self.size]

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """In one piece, after the backward pass."""
        # a term that was taken on no example of one process has no gradient there
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
        """By two sums."""
        count = torch.tensor(rows)
        with _listening():
            dist.all_reduce(count, group=self._hosts)
            everywhere = int(count)
            weighted = value * (rows / max(everywhere, 1))
            dist.all_reduce(weighted)
        return weighted, everywhere

    def gather(self, value: V) -> list[V]:
        """By pickle."""
        values: list[Any] = [None] * self.size
        with _listening():
            dist.all_gather_object(values, value, group=self._hosts)
        return values

    def broadcast(self, value: V) -> V:
        """By pickle."""
        values = [value]
        with _listening():
            dist.broadcast_object_list(values, group=self._hosts, device=torch.device("cpu"))
        return values[0]


def announce(group: Group, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Rank 0 broadcasts the call; all ranks execute it."""
    if group.rank == 0:
        group.broadcast((name, _on_host(args), _on_host(kwargs)))


def follow(training: Any) -> None:
    """Executes the calls that rank 0 broadcasts, until rank 0 calls this, too."""
    group: Group = training.group
    if group.rank:
        hold()  # a signal is for the first process to answer, which needs the others to save
    methods = {getattr(method, "told_as", None): name for name, method in inspect.getmembers(type(training))}
    while (told := group.broadcast(None)) is not None:
        name, args, kwargs = told
        getattr(training, methods[name])(*args, **kwargs)


def launched() -> int:
    """The number of processes that a launcher (accelerate, torchrun, mpirun) started; 1 without one.

    Raises:
        InputError: if accelerate was asked for several on CPUs and started one.
    """
    size = next((int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit()), 1)
    if size == 1 and os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ:
        raise InputError(
            "on CPUs accelerate starts one process alone, however many are asked for: use "
            "`torchrun --nproc-per-node N -m ackd ...`, or `accelerate launch --multi_gpu` with --device cpu"
        )
    return size


def refuse_copies() -> None:
    """Refuses a launcher's copies of a command that works in one process.

    Raises:
        InputError: if a launcher started several of it.
        SystemExit: in all of these but the first.
    """
    if launched() > 1:
        _refuse(
            not any(int(os.environ.get(name, 0)) for name in RANKS),
            f"{launched()} processes were launched of a command that works in one: start it by itself; train and "
            "evaluate take --workers N, or --backend torchrun under torchrun",
        )


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group of processes that a launcher started; this one computes on a device of that kind.

    An exception in any of them ends all of them: it is raised where it came first, and the others end without a word.

    Raises:
        InputError: if there is no such device for each process.
    """
    if launched() == 1:
        yield ALONE
        return
    group = _processes(device)
    if group.rank:
        logging.getLogger("ackd").setLevel(logging.ERROR)  # the first one says it already
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
    """What `auto` is where a launcher started several: cuda if there is a GPU for each of this machine, or else cpu."""
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
    """The device of this rank, where each has its own."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and launched() > 1 else device


def _processes(device: str) -> Processes:
    from accelerate import PartialState  # takes its time to import

    size, local = launched(), int(os.environ.get("LOCAL_RANK", 0))
    if device not in ("cpu", "cuda"):
        _refuse(local == 0, f"{size} processes cannot share the device {device!r}: give --device cuda, or cpu")
    if device == "cuda" and local >= torch.cuda.device_count():
        _refuse(
            local == torch.cuda.device_count(),
            f"process {local} of this machine has no GPU of its own, since torch sees {torch.cuda.device_count()}: "
            "start fewer processes, or give --device cpu",
        )
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun or accelerate, which may start the processes again
        store, rank, _ = meet(PATIENCE)
        backend = "gloo" if device == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    _share_threads(size)
    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if state.num_processes != size:
        raise InputError(f"the launcher speaks of {size} processes and {state.num_processes} met: start them anew")
    return Processes()


def _share_threads(size: int) -> None:
    """Divides the threads among the processes unless OMP_NUM_THREADS is set; accelerate would warn."""
    if os.environ.get("OMP_NUM_THREADS", "0") != "0":
        return
    local = next((int(os.environ[name]) for name in LOCAL_SIZES if os.environ.get(name, "").isdigit()), size)
    torch.set_num_threads(max(torch.get_num_threads() // max(local, 1), 1))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def _refuse(first: bool, sentence: str) -> NoReturn:
    """Raises the error on one rank only, before there is a group."""
    if not first:
        raise SystemExit(0)  # to fail would end the first one before it has spoken
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
    except RuntimeError:  # the store went with the process that held it
        return False
