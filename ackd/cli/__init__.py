"""The command line: one dataclass a command, parsed at the edge."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import reprlib
import signal
import sys
from typing import Annotated, Protocol, get_args, runtime_checkable

import tyro

import ackd
from ackd.cli.cache import FillCache
from ackd.cli.distill import Distill
from ackd.cli.evaluate import Evaluate
from ackd.cli.federate import Federate
from ackd.cli.finetune import Finetune
from ackd.cli.generate import Generate
from ackd.cli.mutual import Mutual
from ackd.cli.policies import Policies
from ackd.cli.predict import Predict
from ackd.cli.presets import Presets
from ackd.cli.pretrain import Pretrain
from ackd.cli.refine_data import RefineData
from ackd.cli.report import Report
from ackd.cli.score import Score
from ackd.cli.train import Train
from ackd.cli.tune import Tune
from ackd.errors import InputError, Once, unknown
from ackd.experiments.options import RunConfig
from ackd.experiments.workers import WorkerConfig
from ackd.runs.stopping import Stopped, stoppable

LARGEST = 2**31 - 1  # of a whole number
DESCRIPTION = "Distil small transformers, and let an agent decide which knowledge to transfer."


@runtime_checkable
class Saying(Protocol):
    """A command that says what it is about to do."""

    def about(self) -> str:
        """In a few words."""
        ...


Command = (
    Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[FillCache, tyro.conf.subcommand("cache")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[RefineData, tyro.conf.subcommand("refine-data")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Mutual, tyro.conf.subcommand("mutual")]
    | Annotated[Federate, tyro.conf.subcommand("federate")]
    | Annotated[Policies, tyro.conf.subcommand("policies")]
    | Annotated[Presets, tyro.conf.subcommand("presets")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
NAMES = tuple(get_args(one)[1].name for one in get_args(Command))


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        0 if it worked, 2 if its input cannot be used, 1 if a training diverged, 128 + the signal if one ended it.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        print(f"ackd {ackd.__version__}")
        return 0
    if given and not given[0].startswith("-") and given[0].replace("_", "-") not in NAMES:
        print(f"ackd: {_line(unknown('command', given[0], NAMES))}", file=sys.stderr)
        return 2
    command = tyro.cli(Command, args=given, prog="ackd", description=DESCRIPTION)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file may have a name that no terminal can show
            stream.reconfigure(errors="backslashreplace")
    notes = logging.StreamHandler(sys.stderr)
    notes.setFormatter(logging.Formatter("%(message)s"))
    notes.addFilter(Once())
    logger = logging.getLogger("ackd")
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        _refuse_copies(command)
        _check_numbers(command)
        _say(command)
        with stoppable():
            command.run()
    except InputError as error:
        print(f"ackd: {_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a name that is too long, a place that is closed
        about = f"{error.filename!s:.200} cannot be used: " if error.filename else ""
        print(f"ackd: {_line(about)}{error.strerror or _line(error)}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"ackd: {_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"ackd: stopped{_goes_on(command)}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    finally:
        logger.removeHandler(notes)
    return 0


def _say(command: object) -> None:
    """Says what is about to happen, before torch and the models are loaded, which takes seconds."""
    if isinstance(command, Saying) and not getattr(command, "quiet", False) and os.environ.get("RANK", "0") == "0":
        output = getattr(command, "output", "")
        print(f"{_line(command.about())}, to {_line(output)}", flush=True)


def _refuse_copies(command: object) -> None:
    """Keeps a launcher from starting several of a command that works by itself."""
    if isinstance(command, Distill) or (isinstance(command, WorkerConfig) and command.backend == "torchrun"):
        return
    accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ  # its mark
    if accelerate or ("TORCHELASTIC_RUN_ID" in os.environ and not isinstance(command, FillCache | Score)):
        from ackd.distributed.process_group import refuse_copies

        refuse_copies()


def _check_numbers(command: object) -> None:
    """Refuses whole numbers that nothing is meant to have, and seeds that no generator takes."""
    for field in dataclasses.fields(command) if dataclasses.is_dataclass(command) else ():
        least = 0 if field.name.endswith("seed") else -LARGEST
        given = getattr(command, field.name)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, int) and not least <= value <= LARGEST:
                option = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{option} is {reprlib.repr(value)}: give a whole number from {least} to {LARGEST}")


def _line(said: object) -> str:
    """As one line in which nothing can steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(said))


def _goes_on(command: object) -> str:
    """How a command that was stopped is taken up again."""
    if isinstance(command, RunConfig | Score):
        return "; --resume goes on"
    return "; the same command goes on" if isinstance(command, FillCache) else ""
