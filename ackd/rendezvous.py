"""How the processes of a launcher meet, also when it has started them once more."""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous


def restarted() -> bool:
    """Whether torchrun has started this group once more, after one of its processes was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def meet(patience: timedelta) -> tuple[Store, int, int]:
    """A store for a process group, this process's rank, and how many they are; all of them call this.

    torchrun keeps what its store holds when it restarts the processes, and so addresses of those that are no more: each
    meeting has a part of the store to itself. Its count of restarts would not do as a name, since machines may differ
    in it.

    Raises:
        RuntimeError: if they do not all come.
        ValueError: if no launcher started this process.
    """
    store, own, size = next(rendezvous("env://", timeout=patience))
    return PrefixStore(_meeting(store, own, size, patience), store), own, size


def _meeting(store: Store, own: int, size: int, patience: timedelta) -> str:
    """A name for this meeting that no earlier one had: rank 0 finds it, and all agree on who has come."""
    me, until = secrets.token_hex(8), time.monotonic() + patience.total_seconds()
    if own == 0:
        store.set("ackd", me)
        there = [store.get(f"ackd/{me}/{other}").decode() for other in range(1, size)]
        store.set(f"ackd/{me}", " ".join(there))
        return me
    while time.monotonic() < until:
        if store.check(["ackd"]):
            name = store.get("ackd").decode()
            store.set(f"ackd/{name}/{own}", me)
            if store.check([f"ackd/{name}"]) and me in store.get(f"ackd/{name}").decode():
                return name
        time.sleep(0.05)
    raise RuntimeError("rank 0 is missing")
