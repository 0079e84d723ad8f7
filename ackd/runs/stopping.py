"""Signals that ask a run to end: held back while a training learns, so that it can save what it has learned first."""

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
PATIENCE = 6.0  # seconds that a training has to come to a point where it can save
LAST = 3.0  # and after those, to end at all
SAME = 0.5  # seconds in which another signal is taken for the same one, sent by a launcher as well

END = 0  # no signal: the block is over

_asked: int | None = None  # the signal that came
_since = 0.0  # when the first one came
_holding = False
_masks: dict[int, set[int | signal.Signals]] = {}  # of the threads that fork right now


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; raised where nothing is lost, or else after some seconds wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_asked() -> bool:
    """Whether a signal is held back: save, and call `stop`."""
    return _asked is not None


def seconds_left() -> float:
    """How long the signal that is held back will be, from now."""
    return max(_since + PATIENCE - time.monotonic(), 0.0)


def hold() -> None:
    """From now on signals wait for somebody who looks at `stop_asked`."""
    global _holding
    _holding = True


def release() -> None:
    """Nobody looks any more: a signal that waits ends the run here, and later ones at once.

    Raises:
        Stopped: if one waits.
    """
    global _holding
    _holding = False
    if stop_asked():
        stop()


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Around what must not be left half made: a signal waits for its end.

    Raises:
        Stopped: then, if one has come and nothing else holds it back.
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
    """Whether signals come as `Stopped` now."""
    return signal.getsignal(signal.SIGTERM) is _handle


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Around a library that sets handlers of its own: those from before come back."""
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
    """SIGTERM and Ctrl-C end the block by `Stopped`, at a good moment if they can, and within 10 seconds at any rate.

    A second signal, a moment later, does not wait. Where the process is deaf, in the middle of a long call of a
    library, it ends as if killed. In other threads than the first, which get no signals, and within another such block
    this does nothing.
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
    """Sees to the end from the first signal on, which arrives here even where the main thread is deaf."""
    number = _next(reading, None)
    if number in (None, END) or _over(reading, PATIENCE):
        return
    assert number is not None
    signal.pthread_kill(threading.main_thread().ident or 0, number)
    if not _over(reading, LAST):
        print("ackd: stopped", file=sys.stderr, flush=True)
        os._exit(128 + number)


def _over(reading: int, seconds: float) -> bool:
    """Whether the block ends within some seconds."""
    until = time.monotonic() + seconds
    while (number := _next(reading, until)) not in (None, END):
        pass
    return number == END


def _next(reading: int, until: float | None) -> int | None:
    """The next of our signals, or END; None if neither comes by then."""
    while True:
        left = None if until is None else max(until - time.monotonic(), 0.0)
        if not select.select([reading], [], [], left)[0]:
            return None
        number = os.read(reading, 1)[0]
        if number in (*SIGNALS, END):
            return number


def _before_fork() -> None:
    """A signal to the child must not be taken for the parent's, though the two share the handlers at first."""
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
