"""`torchrun`: a worker for each rank of a process group; rank 0 is the learner, and worker 0 beside that."""

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
MEETING = 600.0  # seconds that ranks have to come together, at least
ALWAYS = timedelta(days=365)  # a rank waits for its next request as long as rank 0 lives
PARTING = 2.0  # seconds for a rank to hear that this is all


class Rank:
    """The host in another rank.

    Args:
        rank: which.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def put(self, request: bytes) -> None:
        """Sends its size, then itself."""
        try:
            _send(self._rank, request)
        except RuntimeError:
            raise WorkerLost("is gone") from None

    def get(self, seconds: float | None) -> bytes:
        """Waits for the two."""
        try:
            return _receive(self._rank, seconds)
        except RuntimeError as error:
            late = seconds is not None and "imed out" in str(error)
            raise WorkerLost(f"did not answer within {seconds:g} s" if late else "is gone") from None

    def end(self) -> None:
        """Tells it that this is all."""
        with suppress(RuntimeError):  # one that is busy learns of it by the end of rank 0
            work = dist.isend(torch.tensor([len(END)]), self._rank)
            assert work is not None
            work.wait(timedelta(seconds=PARTING))

    def kill(self) -> None:
        """It is torchrun that ends a group, when one of its processes ends with an error."""


def rank() -> int:
    """This process's rank.

    Raises:
        InputError: if it has none, since torchrun did not start it.
    """
    if any(name not in os.environ for name in VARIABLES):
        raise InputError(
            "the backend torchrun needs torchrun to start it: "
            "torchrun --nproc-per-node 4 -m ackd train ... --backend torchrun"
        )
    return int(os.environ["RANK"])


def world_size() -> int:
    """How many ranks there are.

    Raises:
        InputError: as `rank`.
    """
    rank()
    return int(os.environ["WORLD_SIZE"])


def serve(seconds: float | None = None) -> None:
    """What ranks above 0 do: whatever rank 0 asks for, until that ends.

    Args:
        seconds: that all have to come together.

    Raises:
        InputError: if rank 0 does not come, or is gone.
    """
    join(seconds)
    own = rank()
    try:
        live(own, lambda: _receive(0), lambda content: _send(0, content))
    except RuntimeError as error:
        raise InputError(f"rank {own} ends, since rank 0 is gone ({reason(error)})") from None
    part()


def dismiss(seconds: float | None = None) -> None:
    """What rank 0 does where it has nothing to ask of the others, which wait for it; they end.

    Raises:
        InputError: if they do not all come.
    """
    join(seconds)
    for other in range(1, world_size()):
        Rank(other).end()
    part()


def join(seconds: float | None) -> None:
    """Meets the other ranks.

    Raises:
        InputError: if they do not all come.
    """
    own, patience = rank(), timedelta(seconds=max(seconds or 0.0, MEETING))
    try:
        store, _, size = meet(patience)
        dist.init_process_group("gloo", store=store, rank=own, world_size=size, timeout=ALWAYS)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"rank {own} did not meet the others ({reason(error)})") from None


def part() -> None:
    """Leaves the others."""
    dist.destroy_process_group()


def opener() -> Callable[[int], Channel]:
    """Opens each rank once: what is lost is brought back by torchrun, with all the others."""
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
