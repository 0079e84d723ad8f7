"""What a reader must not do while it reads: run anything, write outside its folder, take memory, or hang."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

RUNS = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
FORBIDDEN = frozenset({*RUNS, "pickle.find_class", "socket.connect", "ctypes.dlopen"})
CHANGES = frozenset({"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_allowed: list[str] = []  # folders, while somebody is watched
_seen: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event in FORBIDDEN:
        _seen.append(f"{event} {arguments!r:.200}")
    elif event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and not _inside(_whole(os.fsdecode(path), arguments)):
            _seen.append(f"{event} {path!r:.200}")


def _whole(path: str, arguments: tuple[Any, ...]) -> str:
    """The path from its root, where it is named from an open folder, as `shutil.rmtree` does."""
    place = arguments[-1]
    if os.path.isabs(path) or not isinstance(place, int) or place < 0 or not os.path.isdir(f"/proc/self/fd/{place}"):
        return path
    return os.path.join(os.path.realpath(f"/proc/self/fd/{place}"), path)


def _inside(path: str) -> bool:
    real = os.path.realpath(path)
    return real == os.devnull or any(real == one or real.startswith(one + os.sep) for one in _allowed)


sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path, *, seconds: int = 20) -> Iterator[list[str]]:
    """Collects what the code inside does that no reader may; stops it after some seconds.

    Raises:
        TimeoutError: in the code inside.
    """
    own = folder.with_name(f"{folder.name}.tmp")  # the usual place may hold `folder` itself
    own.mkdir(exist_ok=True)
    usual, tempfile.tempdir = tempfile.tempdir, str(own)
    _seen.clear()
    _allowed.extend(map(os.path.realpath, (folder, own)))
    before = signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of its own work, whatever else the machine does
    try:
        yield _seen
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        _allowed.clear()
        tempfile.tempdir = usual


def _late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it hangs")


@contextmanager
def without_limit(most: int = 16 << 30) -> Iterator[Callable[[], int]]:
    """Lifts the limit of `limit_memory` inside; how many bytes there were at most in memory, beyond those of before.

    What is asked for and never touched is not among them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    before = _kilobytes("VmRSS")
    try:
        yield lambda: 1024 * (_kilobytes("VmHWM") - before)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _kilobytes(what: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1])


def limit_memory(more: int) -> None:
    """Lets this process take so many bytes more than it has now; what would take them raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
