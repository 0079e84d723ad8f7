"""An evaluation whose students are trained by workers comes to what one process comes to, whoever is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ackd.cli import main
from ackd.distributed.jobs import run_jobs
from ackd.training.replay_log import ENTRIES
from tests import processes
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "200", "--reward-examples", "40", "--steps", "8"]
SHORT += ["--decision-interval", "2", "--lr", "5e-4", "--batch-size", "8", "--checkpoint-seconds", "0"]
COMPARED = ["--policies", "random", "best-static", "ucb", "--seeds", "2", "--search-tries", "2"]
COMPARED += ["--knowledge", "logits", "hidden"]


@pytest.fixture(scope="module")
def arguments(teacher: Path) -> list[str]:
    return ["evaluate", "--tasks", "polarity", "--teachers", str(teacher), *SHORT, *COMPARED]


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process leaves."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*arguments, "--output", str(folder)]) == 0
    return left(folder)


def left(folder: Path) -> dict[str, object]:
    """Everything that an evaluation leaves, wall-clock time aside, and whose students the teacher was asked for."""
    files: dict[str, object] = {}
    for path in sorted(folder.rglob("decisions.csv")):
        files[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.rglob("tensorboard")):
        events = EventAccumulator(str(path))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith(
                ("spent/seconds", "spent/time_share", "spent/flops/re", "spent/flops/probe", "result/sec")
            ):
                files[f"{path.relative_to(folder)}: {tag}"] = [(one.step, one.value) for one in events.Scalars(tag)]
    cells = json.loads((folder / "result.json").read_text())["cells"]
    files["cells"] = [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]
    rows = (folder / "table.csv").read_text().splitlines()
    files["rows"] = [",".join(row.split(",")[:10]) for row in rows]
    return files


@pytest.mark.usefixtures("forked_workers")
def test_two_workers_make_the_same_table(
    arguments: list[str], whole: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def noted(*crew: Any, seconds: float, **settings: Any) -> Iterator[Any]:
        given.append(seconds)
        return run_jobs(*crew, seconds=seconds, **settings)

    monkeypatch.setattr("ackd.experiments.evaluation.run_jobs", noted)
    assert main([*arguments, "--output", str(tmp_path / "run"), "--workers", "2", "--step-timeout", "500"]) == 0
    cell = 500.0 * (4 + 2)  # 4 decisions, the scores before and after
    assert set(given) == {2 * cell, cell}  # a search has two tries
    found = left(tmp_path / "run")
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        assert found[name] == value, name


def children(process: BaseProcess) -> list[int]:
    """The workers of a run."""
    return [int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait(until: Callable[[], object], process: BaseProcess) -> None:
    end = time.monotonic() + 200
    while not until():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(run: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in run.rglob(ENTRIES))


def test_lost_workers_and_a_lost_parent_cost_nothing(
    arguments: list[str], whole: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    again = [*arguments, "--output", str(run), "--resume", "--workers", "2", "--backend", "subproc"]
    process = processes.command(again, errors=tmp_path / "errors", forks=True)
    wait(lambda: lines(run) > 10, process)
    os.kill(children(process)[0], signal.SIGKILL)  # another takes its place
    reached = lines(run)
    wait(lambda: lines(run) > reached + 8, process)
    os.kill(process.pid or 0, signal.SIGTERM)
    began = time.monotonic()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 20  # 10 where nothing else runs
    assert (tmp_path / "errors").read_text().splitlines()[-1] == "ackd: stopped; --resume goes on"
    assert not (run / "result.json").exists()
    assert main([*arguments, "--output", str(run), "--resume"]) == 0  # by this process alone
    found = left(run)
    for name, value in whole.items():
        assert found[name] == value, name


EVALUATE = "evaluate --tasks own --teachers teacher --student-layers 1 --steps 4 --policies all --seeds 2"
CACHE = "cache --task own --teacher teacher --student-layers 1"


@pytest.mark.parametrize(("command", "what"), [(EVALUATE, "teacher 1"), (CACHE, "training data")])
def test_a_worker_with_other_files_is_refused(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, what: str
) -> None:
    """As on a node whose copy is another: the same names hold other weights there, or other labels."""
    for node in range(2):
        place = tmp_path / str(node)
        shutil.copytree(teacher, place / "teacher")
        other = 10 * node * (what == "training data")
        rows = [f"text {i},{'negative' if i % 2 and i >= other else 'positive'}" for i in range(80)]
        (place / "own.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    if what == "teacher 1":
        (file,) = (place / "teacher").rglob("model.safetensors")
        save_file({name: 2 * value for name, value in load_file(file).items()}, file, {"format": "pt"})
    monkeypatch.chdir(tmp_path)
    own = "--data own.csv --text-columns text --label-column label --reward-examples 16 --backend torchrun --output"
    arguments = [*command.split(), *own.split(), str(tmp_path / "output")]
    launcher = processes.torchrun(arguments, tmp_path / "ranks", apart=True)
    launcher.join(200)
    said = (tmp_path / "ranks" / "errors").read_text()
    assert re.search(rf"ackd: the worker in process \d+ on \S+ has another {what} \(\w+\) than the", said)
    assert launcher.exitcode not in (None, 0)


def test_a_finished_table_outlives_workers_that_do_not_come(arguments: list[str], tmp_path: Path) -> None:
    run = ["--output", str(tmp_path / "run"), "--policies", "labels", "--seeds", "1"]
    assert main(last_said([*arguments, *run])) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    lost = ["--resume", "--workers", "2", "--backend", "ray", "--ray-address", "127.0.0.1:1"]
    assert main(last_said([*arguments, *run, *lost])) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--workers 0", "give --workers 1 or more"),
        ("--backend subprocess", "unknown backend 'subprocess': did you mean 'subproc'"),
        ("--workers 2 --backend torchrun", "needs torchrun to start it"),
        ("--step-timeout 0", "--step-timeout is 0"),
        ("--ray-address localhost:1", "add --backend ray"),
        ("--workers 2 --backend ray --ray-address 127.0.0.1:1", "no Ray cluster answers"),
        ("--policies runs/a runs_a", "'runs/a' and 'runs_a' would share a folder"),
    ],
)
def test_bad_input(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    capsys.readouterr()
    assert main(last_said([*arguments, "--output", str(tmp_path / "run"), *options.split()])) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
