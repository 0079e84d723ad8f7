from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ackd.distributed.jobs import answering, run_jobs
from ackd.distributed.workers import WorkerFailed, Workers, start
from ackd.errors import InputError
from ackd.runs.stopping import Stopped, stoppable


class Desk:
    """Does what a job says, and keeps a line of it."""

    def __init__(self, folder: Path, worker: int) -> None:
        self.folder, self.worker = folder, worker

    @answering
    def do(self, job: tuple[str, int]) -> tuple[int, int]:
        what, number = job
        tries = self.folder / f"{number}"
        with tries.open("a") as file:
            file.write("x")
        count = len(tries.read_text())
        if what == "refuse":
            raise InputError(f"job {number} cannot be done")
        if what == "fail":
            raise ZeroDivisionError
        if what == "die" or (what == "die once" and count == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang once" and count == 1:
            time.sleep(100)
        if what == "stop once" and count == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "slow":
            time.sleep(0.3)
        while what == "last" and not (self.folder / "others").exists():
            time.sleep(0.01)
        if what == "long":
            try:
                time.sleep(60)
            except Stopped:
                (self.folder / "saved").touch()
                raise
        return number, count


def made(folder: Path, worker: int) -> Desk:
    return Desk(folder, worker)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory, forked_workers: None) -> Iterator[tuple[Workers, Path]]:
    folder = tmp_path_factory.mktemp("jobs")
    with closing(start("subproc", partial(made, folder), 2, threads=1)) as workers:
        yield workers, folder


def done(crew: tuple[Workers, Path], jobs: Sequence[tuple[str, int]], **settings: Any) -> list[Any]:
    workers, folder = crew
    for path in folder.iterdir():
        path.unlink()
    return list(run_jobs(workers, jobs, **settings))


def test_answers_come_in_the_order_of_the_jobs(crew: tuple[Workers, Path]) -> None:
    jobs = [("last", 0), *(("do", number) for number in range(1, 8))]
    came: list[int] = []

    def on_answer(job: tuple[str, int], answer: tuple[int, int]) -> None:
        came.append(job[1])
        if len(came) == 7:
            (crew[1] / "others").touch()

    assert done(crew, jobs, on_answer=on_answer) == [(job, (job[1], 1)) for job in jobs]
    assert sorted(came) == list(range(8))
    assert came[-1] == 0  # the others did not wait for it
    assert done(crew, []) == []


def test_a_lost_job_goes_again(crew: tuple[Workers, Path]) -> None:
    jobs = [("die once", 0), ("do", 1), ("stop once", 2), ("do", 3), ("hang once", 4), ("do", 5)]
    answers = dict(done(crew, jobs, seconds=3.0))
    assert [answers[job] for job in jobs] == [(0, 2), (1, 1), (2, 2), (3, 1), (4, 2), (5, 1)]


def test_three_times_at_most(crew: tuple[Workers, Path]) -> None:
    with pytest.raises(InputError, match=r"lost 3 times, at last since worker . .* was killed by SIGKILL: look for"):
        done(crew, [("die", 0)])
    assert (crew[1] / "0").read_text() == "xxx"
    crew[0].restart(0)


def test_what_a_job_raises_is_raised(crew: tuple[Workers, Path]) -> None:
    with pytest.raises(InputError, match="job 1 cannot be done"):
        done(crew, [("do", 0), ("refuse", 1)])
    with pytest.raises(WorkerFailed, match="ZeroDivisionError"):
        done(crew, [("fail", 0)])


def test_who_is_still_at_a_job_when_another_fails_answers_nobody_else(crew: tuple[Workers, Path]) -> None:
    for _ in range(4):  # two who wait at one pipe are served by chance
        with pytest.raises(InputError, match="job 1 cannot be done"):
            done(crew, [("slow", 0), ("refuse", 1)])
        assert [answer[0] for _, answer in done(crew, [("do", 2), ("do", 3)])] == [2, 3]


def test_a_signal_reaches_the_workers(crew: tuple[Workers, Path]) -> None:
    def ask(job: Any, answer: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()

    def work() -> None:
        with stoppable():
            done(crew, [("long", 0), ("slow", 1)], on_answer=ask)

    with pytest.raises(Stopped):
        work()
    assert (crew[1] / "saved").exists()
    assert time.monotonic() - began < 8
