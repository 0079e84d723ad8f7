"""How the processes of a launcher meet, also when it has started them once more, and that they end with it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from datetime import timedelta
from functools import cache

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

REACH = 15.0  # seconds until the launcher answers, which was there before its processes


def restarted() -> bool:
    """Whether torchrun has started this group once more, after one of its processes was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def meet(patience: timedelta) -> tuple[Store, int, int]:
    """A store for a process group, this process's rank, and how many they are; all of them call this.

    torchrun keeps what its store holds when it restarts the processes, and so addresses of those that are no more: each
    meeting has a part of the store to itself. Its count of restarts would not do as a name, since machines may differ
    in it.

    Raises:
        RuntimeError: if they do not all come, or the launcher is gone.
        ValueError: if no launcher started this process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_launcher()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _reach(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store, own, size = next(rendezvous("env://", timeout=patience))
    return PrefixStore(_meeting(store, own, size, patience), store), own, size


@cache  # one watch is enough
def _end_with_launcher() -> None:
    """Ends this process once its launcher is gone.

    Nobody would start it again after a loss, its output folder would stay locked, and while it meets the others it
    would look for the launcher's store as long as its patience lasts.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        try:
            print("ackd: the launcher is gone, and so this process ends: --resume goes on", file=sys.stderr, flush=True)
        finally:  # whatever became of its output
            os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def _reach(address: str, port: int) -> None:
    """Waits a little for the launcher's store, whose own client would wait as long as it does for the others."""
    until = time.monotonic() + REACH
    while True:
        try:
            socket.create_connection((address, port), timeout=REACH).close()
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(f"the launcher at {address}:{port} is gone: {error}") from None
            time.sleep(0.2)
        else:
            return


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
