"""The command line: each command is a dataclass, filled from its arguments."""

from __future__ import annotations

import dataclasses
import gc
import io
import logging
import os
import reprlib
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol, runtime_checkable

from ackd.cli.cache import FillCache
from ackd.cli.commands import Command as Command
from ackd.cli.distill import Distill
from ackd.cli.parsing import parse, shown
from ackd.cli.paths import check_paths
from ackd.cli.score import Score
from ackd.errors import InputError, Once
from ackd.experiments.options import RunConfig
from ackd.experiments.workers import WorkerConfig
from ackd.numerics.memory import uncollected
from ackd.runs.stopping import Stopped, stoppable

LARGEST = 2**31 - 1  # largest integer that an option takes


@runtime_checkable
class Saying(Protocol):
    """A command that announces its work."""

    def about(self) -> str:
        """The work in a few words."""
        ...


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 on success, 1 if a training diverged, 2 if the input cannot be used, 128 + the number of a signal that
        stopped it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may not be printable
            stream.reconfigure(errors="backslashreplace")
    try:
        with _notes():
            status = _answer(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


def _answer(words: list[str]) -> int:
    """Runs the command in `words` and returns its exit status; prints errors on stderr."""
    command = None
    try:
        if (text := shown(words)) is not None:
            print(text)
            return 0
        command = parse(words)
        _refuse_copies(command)
        _check_numbers(command)
        check_paths(command)
        _say(command)
        with stoppable():
            if isinstance(command, Saying):
                _load()
            command.run()
    except InputError as error:
        print(f"ackd: {_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # full disk, name too long, no permission
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise
        about = f"{error.filename!s:.200} cannot be used: " if error.filename else ""
        print(f"ackd: {_line(about)}{error.strerror or _line(error)}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"ackd: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"ackd: stopped{_goes_on(command)}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    return 0


def _nobody_reads() -> bool:
    """Whether the broken pipe is standard output, not a pipe to a worker."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except io.UnsupportedOperation:  # stdout has no file descriptor
        return False
    return bool(poll.poll(0))


@contextmanager
def _notes() -> Iterator[None]:
    """Prints each log message of the package once, on stderr."""
    notes = logging.StreamHandler(sys.stderr)
    notes.setFormatter(logging.Formatter("%(message)s"))
    notes.addFilter(Once())
    logger = logging.getLogger("ackd")
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(notes)


def _say(command: object) -> None:
    """Announces the work before torch and the models are loaded, because loading takes seconds."""
    if isinstance(command, Saying) and not getattr(command, "quiet", False) and os.environ.get("RANK", "0") == "0":
        output = getattr(command, "output", "")
        print(f"{_line(command.about())}, to {_line(output)}", flush=True)


def _load() -> None:
    """Imports torch and transformers, and exempts their objects from later garbage collections."""
    if "ackd.models" not in sys.modules:
        with uncollected():
            import_module("ackd.models")
            gc.freeze()


def _refuse_copies(command: object) -> None:
    """Raises an error if a launcher starts several copies of a command that runs alone."""
    if isinstance(command, Distill) or (isinstance(command, WorkerConfig) and command.backend == "torchrun"):
        return
    accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ  # set by accelerate
    if accelerate or ("TORCHELASTIC_RUN_ID" in os.environ and not isinstance(command, FillCache | Score)):
        from ackd.distributed.process_group import refuse_copies

        refuse_copies()


def _check_numbers(command: object) -> None:
    """Raises an error for integers out of range and for seeds that no generator accepts."""
    for field in dataclasses.fields(command) if dataclasses.is_dataclass(command) else ():
        least = 0 if field.name.endswith("seed") else -LARGEST
        given = getattr(command, field.name)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, int) and not least <= value <= LARGEST:
                option = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{option} is {reprlib.repr(value)}: give a whole number from {least} to {LARGEST}")


def _line(said: object) -> str:
    """Converts to one line, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(said))


def _goes_on(command: object) -> str:
    """Explains how to continue a stopped command."""
    if isinstance(command, RunConfig | Score):
        return "; --resume goes on"
    return "; the same command goes on" if isinstance(command, FillCache) else ""
