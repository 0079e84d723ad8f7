"""Rendezvous of a launcher's processes, also after a restart; the processes end when the launcher ends."""

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

REACH = 15.0  # seconds to wait for the launcher, which started before its processes


def restarted() -> bool:
    """Whether torchrun has restarted this group after the loss of a process."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def meet(patience: timedelta) -> tuple[Store, int, int]:
    """Returns a store for a process group, this process's rank and the number of processes.

    All processes have to call this function. After a restart, torchrun's store still contains addresses of ended
    processes, so each meeting uses its own prefix in the store. The restart count is no usable prefix because it can
    differ between machines.

    Raises:
        RuntimeError: if a process does not arrive, or the launcher has ended.
        ValueError: if no launcher started this process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_launcher()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _reach(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store, own, size = next(rendezvous("env://", timeout=patience))
    return PrefixStore(_meeting(store, own, size, patience), store), own, size


@cache  # one watching thread is enough
def _end_with_launcher() -> None:
    """Ends this process when its launcher has ended.

    Otherwise nothing would restart it after a loss, its output folder would stay locked, and a meeting would search for
    the launcher's store until its timeout.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        try:
            print("ackd: the launcher is gone, and so this process ends: --resume goes on", file=sys.stderr, flush=True)
        finally:  # even if printing fails
            os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def _reach(address: str, port: int) -> None:
    """Waits up to `REACH` seconds for the launcher's store; the store's own client would wait the full timeout."""
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
    """Returns a new name for this meeting: rank 0 chooses it, and all ranks confirm who has arrived."""
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
