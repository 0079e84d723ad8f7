"""Processes of their own that tests start: forked by one server, which has imported once what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

IMPORTED = ["accelerate", "ackd.agents.learner", "ackd.building.setting", "ackd.cli", "ackd.corpora", "ackd.envs.make"]
IMPORTED += [
    f"ackd.experiments.{name}" for name in ("agent", "distillation", "evaluation", "filling", "hosting", "scoring")
]
IMPORTED += ["ackd.teachers", "hypothesis", "pytest", "tests.warm"]

SERVER: ForkServerContext = multiprocessing.get_context("forkserver")  # starts with the first process
SERVER.set_forkserver_preload(IMPORTED)


def command(
    arguments: Sequence[str],
    *,
    out: Path | None = None,
    errors: Path | None = None,
    forks: bool = False,
    all_of_dev: bool = False,
) -> BaseProcess:
    """`ackd` with these arguments.

    Args:
        arguments: on the command line.
        out: the file for what it says.
        errors: the file for what it says there.
        forks: whether workers of the backend subproc are forked from it, and not spawned afresh as everywhere else.
        all_of_dev: whether it reports on all of a generated task's validation split.
    """
    process = SERVER.Process(target=_run, args=(list(arguments), out, errors, forks, all_of_dev))
    process.start()
    return process


def torchrun(
    arguments: Sequence[str], place: Path, *, restarts: int = 0, apart: bool = False, all_of_dev: bool = False
) -> BaseProcess:
    """`torchrun --nproc-per-node 2 -m ackd` with these arguments: torch's launcher, which forks the ranks.

    Args:
        arguments: on the command line.
        place: a folder for what they say, `out` and `errors`, and for the process ids of the ranks, `rank-0`, `rank-1`.
        restarts: how often all are started again when one is lost.
        apart: whether each rank works in a folder of its own, which is called by its number.
        all_of_dev: whether they report on all of a generated task's validation split.
    """
    place.mkdir(exist_ok=True)
    process = SERVER.Process(target=_launch, args=(list(arguments), place, restarts, apart, all_of_dev))
    process.start()
    return process


def ranks(place: Path) -> tuple[int, int]:
    """The process ids of those that `torchrun` started there last."""
    first, second = (int((place / f"rank-{rank}").read_text()) for rank in range(2))
    return first, second


def _run(arguments: list[str], out: Path | None, errors: Path | None, forks: bool, all_of_dev: bool) -> None:
    _say(out, errors)
    with workers_of(multiprocessing.get_context("fork")) if forks else nullcontext():
        status = _main(arguments, all_of_dev)
    os._exit(status)


def _launch(arguments: list[str], place: Path, restarts: int, apart: bool, all_of_dev: bool) -> None:
    from torch.distributed import run
    from torch.distributed.launcher.api import elastic_launch

    _say(place / "out", place / "errors")
    options = ["--nproc-per-node", "2", "--max-restarts", str(restarts), "--rdzv-backend", "c10d", "ackd"]
    options = ["--rdzv-endpoint", "localhost:0", "--rdzv-id", str(os.getpid()), *options]
    config, _, _ = run.config_from_args(run.parse_args(options))
    config.start_method = "fork"
    elastic_launch(config, _rank)(arguments, place, apart, all_of_dev)


def _rank(arguments: list[str], place: Path, apart: bool, all_of_dev: bool) -> None:
    rank = os.environ["RANK"]
    (place / f"rank-{rank}").write_text(str(os.getpid()))
    if apart:
        os.chdir(rank)
    if status := _main(arguments, all_of_dev):
        os._exit(status)


def _say(out: Path | None, errors: Path | None) -> None:
    """Has this process and its children say in files what they say."""
    for path, number in ((out, 1), (errors, 2)):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)


def _main(arguments: list[str], all_of_dev: bool) -> int:
    from ackd.cli import main
    from tests.small_dev import small_dev

    torch.set_num_threads(1)
    with nullcontext() if all_of_dev else small_dev():
        status = main(arguments)
    sys.stdout.flush()
    return status


@contextmanager
def workers_of(context: Any) -> Iterator[None]:
    """Has the backend subproc start its processes in another way than by spawning them afresh."""
    known: Any = multiprocessing
    before, known.get_context = known.get_context, lambda method=None: context
    try:
        yield
    finally:
        known.get_context = before


class Forked:
    """A context of multiprocessing as the backend subproc uses it, whose processes come from the server."""

    def __init__(self, *, all_of_dev: bool) -> None:
        self.all_of_dev = all_of_dev

    Pipe = staticmethod(SERVER.Pipe)

    def Process(self, *, target: Callable[..., None], args: tuple[Any, ...], **settings: Any) -> BaseProcess:  # noqa: N802
        return SERVER.Process(target=_work, args=(target, args, self.all_of_dev), **settings)


def _work(target: Callable[..., None], args: tuple[Any, ...], all_of_dev: bool) -> None:
    from tests.small_dev import small_dev

    with nullcontext() if all_of_dev else small_dev():
        target(*args)
