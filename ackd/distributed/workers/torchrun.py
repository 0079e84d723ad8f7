"""Backend `torchrun`: one worker per rank of a process group; rank 0 is the learner and also worker 0."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from ackd.distributed.rendezvous import meet
from ackd.distributed.workers.host import END, live
from ackd.distributed.workers.inline import Inline
from ackd.distributed.workers.protocol import Channel, WorkerLost
from ackd.errors import InputError, reason

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = 600.0  # smallest timeout of the rendezvous, in seconds
ALWAYS = timedelta(days=365)  # a rank waits for its next request until rank 0 ends
PARTING = 2.0  # seconds to send a rank the request to end


class Rank:
    """The `Host` in another rank.

    Args:
        rank: the other rank.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def put(self, request: bytes) -> None:
        """Sends the size of the request, then the request."""
        try:
            _send(self._rank, request)
        except RuntimeError:
            raise WorkerLost("is gone") from None

    def get(self, seconds: float | None) -> bytes:
        """Waits for the size of the answer, then for the answer."""
        try:
            return _receive(self._rank, seconds)
        except RuntimeError as error:
            late = seconds is not None and "imed out" in str(error)
            raise WorkerLost(f"did not answer within {seconds:g} s" if late else "is gone") from None

    def end(self) -> None:
        """Sends the rank `END`."""
        with suppress(RuntimeError):  # a busy rank ends when rank 0 ends
            work = dist.isend(torch.tensor([len(END)]), self._rank)
            assert work is not None
            work.wait(timedelta(seconds=PARTING))

    def kill(self) -> None:
        """Does nothing: torchrun ends all processes when one of them fails."""


def rank() -> int:
    """This process's rank.

    Raises:
        InputError: if torchrun did not start this process.
    """
    if any(name not in os.environ for name in VARIABLES):
        raise InputError(
            "the backend torchrun needs torchrun to start it: "
            "torchrun --nproc-per-node 4 -m ackd train ... --backend torchrun"
        )
    return int(os.environ["RANK"])


def world_size() -> int:
    """The number of ranks.

    Raises:
        InputError: if torchrun did not start this process.
    """
    rank()
    return int(os.environ["WORLD_SIZE"])


def serve(seconds: float | None = None) -> None:
    """Executes rank 0's requests until rank 0 ends; called on all other ranks.

    Args:
        seconds: timeout of the rendezvous.

    Raises:
        InputError: if rank 0 does not arrive or ends with an error.
    """
    join(seconds)
    own = rank()
    try:
        live(own, lambda: _receive(0), lambda content: _send(0, content))
    except RuntimeError as error:
        raise InputError(f"rank {own} ends, since rank 0 is gone ({reason(error)})") from None
    part()


def dismiss(seconds: float | None = None) -> None:
    """Ends the waiting ranks without requests; called on rank 0.

    Raises:
        InputError: if a rank does not arrive.
    """
    join(seconds)
    for other in range(1, world_size()):
        Rank(other).end()
    part()


def join(seconds: float | None) -> None:
    """Joins the process group of all ranks.

    Raises:
        InputError: if a rank does not arrive.
    """
    own, patience = rank(), timedelta(seconds=max(seconds or 0.0, MEETING))
    try:
        store, _, size = meet(patience)
        dist.init_process_group("gloo", store=store, rank=own, world_size=size, timeout=ALWAYS)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"rank {own} did not meet the others ({reason(error)})") from None


def part() -> None:
    """Leaves the process group."""
    dist.destroy_process_group()


def opener() -> Callable[[int], Channel]:
    """Returns a function that opens each rank once; only torchrun can restart a rank, with all others."""
    opened: set[int] = set()

    def open(worker: int) -> Channel:
        if worker in opened:
            raise InputError("a rank is lost, and so all have to start again: torchrun --max-restarts 3 sees to that")
        opened.add(worker)
        return Rank(worker) if worker else Inline(worker)

    return open


def _send(rank: int, content: bytes) -> None:
    dist.send(torch.tensor([len(content)]), rank)
    if content:
        dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), rank)


def _receive(rank: int, seconds: float | None = None) -> bytes:
    size = torch.zeros(1, dtype=torch.int64)
    _wait(size, rank, seconds)
    if not size.item():
        return b""
    content = torch.empty(int(size.item()), dtype=torch.uint8)
    _wait(content, rank, seconds)
    return content.numpy().tobytes()


def _wait(tensor: torch.Tensor, rank: int, seconds: float | None) -> None:
    work = dist.irecv(tensor, rank)
    assert work is not None
    if seconds is None:
        work.wait()
    else:
        work.wait(timedelta(seconds=seconds))
