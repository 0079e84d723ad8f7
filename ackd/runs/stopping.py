"""Handles stop signals: they are deferred during training, so that the run can save a checkpoint first."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 6.0  # seconds for a training to reach a point where it can save
LAST = 3.0  # further seconds for the process to end
SAME = 0.5  # a second signal within so many seconds counts as the same one (a launcher may repeat it)

END = 0  # no signal: the block has ended

_asked: int | None = None  # the received signal
_since = 0.0  # time of the first signal
_holding = False
_masks: dict[int, set[int | signal.Signals]] = {}  # signal masks of the threads that are forking


class Stopped(KeyboardInterrupt):
    """A signal stopped this process; raised at a safe point, or after some seconds wherever the process is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_asked() -> bool:
    """Whether a signal is deferred; if so, the caller saves and calls `stop`."""
    return _asked is not None


def seconds_left() -> float:
    """Seconds until the deferred signal ends the process."""
    return max(_since + PATIENCE - time.monotonic(), 0.0)


def hold() -> None:
    """Defers signals from now on; the caller has to check `stop_asked`."""
    global _holding
    _holding = True


def release() -> None:
    """Stops deferring: a deferred signal ends the run now, and later signals end it at once.

    Raises:
        Stopped: if a signal is deferred.
    """
    global _holding
    _holding = False
    if stop_asked():
        stop()


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Context manager that defers signals until the end of its block, so that the block is not left half done.

    Raises:
        Stopped: at the end of the block, if a signal has arrived and no outer block defers it.
    """
    global _holding
    held, _holding = _holding, True
    try:
        yield
    finally:
        _holding = held
    if not held:
        release()


def stop() -> None:
    """Ends the run.

    Raises:
        Stopped: always.
    """
    assert _asked is not None
    raise Stopped(_asked)


def listening() -> bool:
    """Whether this module handles signals now."""
    return signal.getsignal(signal.SIGTERM) is _handle


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Context manager that restores the signal handlers after a call of a library that sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # not one of Python's
                signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the block with `Stopped`, at a safe point if possible, but within 10 seconds.

    A second signal, more than `SAME` seconds later, ends the block at once. If the process cannot react (e.g. in a long
    library call), it exits as if killed. Outside the main thread and inside another such block, this does nothing.
    """
    global _asked, _holding
    if threading.current_thread() is not threading.main_thread() or listening():
        yield
        return
    _asked, _holding = None, False
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reading,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, bytes([END]))
        watch.join()
        os.close(writing)
        os.close(reading)
        _asked, _holding = None, False


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked, _since
    first, now = _asked is None, time.monotonic()
    if first:
        _since = now
    elif now - _since < SAME:
        return
    _asked = number
    if not (first and _holding):
        raise Stopped(number)


def _watch(reading: int) -> None:
    """Ends the process after the first signal; this thread receives it even if the main thread cannot react."""
    number = _next(reading, None)
    if number in (None, END) or _over(reading, PATIENCE):
        return
    assert number is not None
    signal.pthread_kill(threading.main_thread().ident or 0, number)
    if not _over(reading, LAST):
        print("ackd: stopped", file=sys.stderr, flush=True)
        os._exit(128 + number)


def _over(reading: int, seconds: float) -> bool:
    """Whether the block ends within `seconds`."""
    until = time.monotonic() + seconds
    while (number := _next(reading, until)) not in (None, END):
        pass
    return number == END


def _next(reading: int, until: float | None) -> int | None:
    """The next signal of `SIGNALS`, or END; None if neither arrives before the deadline."""
    while True:
        left = None if until is None else max(until - time.monotonic(), 0.0)
        if not select.select([reading], [], [], left)[0]:
            return None
        number = os.read(reading, 1)[0]
        if number in (*SIGNALS, END):
            return number


def _before_fork() -> None:
    """Blocks signals during a fork: the child shares the parent's handlers, and must not report its signals there."""
    _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop(threading.get_ident()))


def _in_the_fork() -> None:
    if listening():
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_the_fork)
