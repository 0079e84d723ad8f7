"""Runs that are asked to end save first, and go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from ackd.cli import main
from ackd.training.replay_log import ENTRIES, STATE
from tests import processes
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "200", "--decision-interval", "2", "--lr", "5e-4"]
SHORT += ["--batch-size", "8", "--reward-examples", "40"]
SHORT += ["--checkpoint-seconds", "1000"]  # nothing is saved but what a signal saves
COMMANDS = {
    "distill": ["distill", "--policy", "random", "--steps", "40"],
    "train": ["train", "--episodes", "2", "--steps", "20"],
    "evaluate": ["evaluate", "--policies", "random", "all", "--seeds", "1", "--steps", "30"],
}


def wait_for(run: Path, lines: int, process: BaseProcess) -> Path:
    """The folder of the run's first journal that has so many lines."""
    until = time.monotonic() + 100
    while time.monotonic() < until and process.is_alive():
        for path in run.rglob(ENTRIES):
            if path.read_bytes().count(b"\n") >= lines:
                return path.parent
        time.sleep(0.005)
    raise AssertionError(f"{run} got no {lines} lines")


def left(run: Path) -> dict[str, object]:
    """What a run leaves and that may not depend on when it was stopped."""
    names = ("*.safetensors", "decisions.csv")
    files: dict[str, object] = {
        str(path.relative_to(run)): path.read_bytes() for name in names for path in run.rglob(name)
    }
    cells = json.loads((run / "result.json").read_text()).get("cells", [])
    return files | {"cells": [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]}


@pytest.mark.parametrize(
    ("command", "number", "lines"),
    [("distill", signal.SIGTERM, 8), ("train", signal.SIGINT, 12), ("evaluate", signal.SIGTERM, 10)],
)
def test_a_signal_saves_and_ends(
    tmp_path: Path, teacher: Path, command: str, number: signal.Signals, lines: int
) -> None:
    task = ["--tasks", "polarity", "--teachers"] if command == "evaluate" else ["--task", "polarity", "--teacher"]
    arguments = [*COMMANDS[command], *SHORT, *task, str(teacher)]
    run = tmp_path / "stopped"
    process = processes.command([*arguments, "--output", str(run), "--resume"], errors=tmp_path / "errors")
    replay_log = wait_for(run, lines, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    began = time.monotonic()
    process.join(30)
    assert process.exitcode == 128 + number
    assert time.monotonic() - began < 10
    assert (tmp_path / "errors").read_text().splitlines()[-1] == "ackd: stopped; --resume goes on"
    entries = (replay_log / ENTRIES).read_bytes().count(b"\n")
    assert torch.load(replay_log / STATE, weights_only=True)["entries"] == entries  # nothing is lost
    assert main([*arguments, "--output", str(run), "--resume"]) == 0
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    stopped, whole = left(run), left(tmp_path / "whole")
    assert stopped.keys() == whole.keys()
    for name, value in whole.items():
        assert stopped[name] == value, name


def test_a_command_without_a_journal_ends_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["finetune", "--task", "polarity", "--epochs", "100", "--output", str(run)]
    process = processes.command(arguments, errors=tmp_path / "errors")
    until = time.monotonic() + 100
    while not (run / "config.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == 143
    assert (tmp_path / "errors").read_text().splitlines()[-1] == "ackd: stopped"


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path, teacher: Path) -> None:
    arguments = last_said(
        [*COMMANDS["distill"], *SHORT, "--task", "polarity", "--teacher", str(teacher), "--steps", "4000"]
    )
    run = tmp_path / "run"
    process = processes.command([*arguments, "--output", str(run)], errors=tmp_path / "errors")
    wait_for(run, 3, process)
    before = (run / "config.json").read_bytes()
    for way in ("--resume", "--overwrite"):
        second = processes.command([*arguments, "--output", str(run), way], errors=tmp_path / "refused")
        second.join(60)
        assert second.exitcode == 2
        said = (tmp_path / "refused").read_text().splitlines()[-1]
        assert said.startswith(f"ackd: a run in {run} is under way, as process {process.pid} on ")
    assert main(["report", str(run)]) in (0, 2)  # reading is not refused
    assert (run / "config.json").read_bytes() == before
    assert process.is_alive()
    process.kill()
    process.join()
    assert main(last_said([*arguments, "--steps", "4", "--output", str(run), "--overwrite"])) == 0  # the kernel let go
