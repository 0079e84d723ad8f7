"""`ackd train` with workers: the same agent and student wherever they are, whoever is killed on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ackd.agents import load
from ackd.cli import main
from ackd.envs.remote import RemoteVecEnv
from tests import processes
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "400", "--reward-examples", "64", "--steps", "8"]
SHORT += ["--decision-interval", "2", "--lr", "5e-4", "--batch-size", "8", "--checkpoint-seconds", "0"]


@pytest.fixture(autouse=True, scope="module")
def little_to_report() -> None:
    """Not here: ranks and Ray's workers have all of dev."""


@pytest.fixture(scope="module")
def command(teacher: Path) -> list[str]:
    return ["train", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--episodes", "4"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> dict[str, object]:
    """What two workers of this process leave."""
    folder = tmp_path_factory.mktemp("runs") / "dummy"
    assert main([*command, "--workers", "2", "--backend", "dummy", "--output", str(folder)]) == 0
    return left(folder)


def left(folder: Path) -> dict[str, object]:
    files: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".csv")
    }
    result = json.loads((folder / "result.json").read_text())
    assert {"decisions.csv", "policy/policy.safetensors", "student/model.safetensors"} <= files.keys()
    return files | {name: value for name, value in result.items() if name != "seconds"}


def kill_worker_once(monkeypatch: pytest.MonkeyPatch, decision: int) -> list[int]:
    """Kills worker 1 in the middle of a decision; what comes back is who was killed."""
    killed: list[int] = []
    begin, begun = RemoteVecEnv.step_async, 0

    def step_async(self: RemoteVecEnv, actions: Any) -> None:
        nonlocal begun
        begin(self, actions)
        begun += 1
        if begun == decision:
            killed.append(int(self.workers.about[1]["pid"]))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(RemoteVecEnv, "step_async", step_async)
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["subproc", "ray"])
def test_a_killed_worker_changes_nothing(
    tmp_path: Path,
    command: list[str],
    expected: dict[str, object],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed = kill_worker_once(monkeypatch, 6)
    with processes.workers_of(processes.Forked(all_of_dev=True)):  # which Ray's are not
        assert main([*command, "--workers", "2", "--backend", backend, "--output", str(tmp_path / "run")]) == 0
    assert f"worker 1 (process {killed[0]}" in capsys.readouterr().err
    assert left(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_killed_rank_changes_nothing(tmp_path: Path, command: list[str], expected: dict[str, object]) -> None:
    folder = tmp_path / "run"
    arguments = [*command, "--backend", "torchrun", "--output", str(folder)]
    process = processes.torchrun(arguments, tmp_path / "ranks", restarts=1, all_of_dev=True)
    wait_for(folder / "checkpoint" / "worker-1" / "journal.jsonl", lines=10)
    first = processes.ranks(tmp_path / "ranks")
    os.kill(first[1], signal.SIGKILL)
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "ranks" / "errors").read_text()
    assert not {*first} & {*processes.ranks(tmp_path / "ranks")}  # all were started again
    assert left(folder) == expected
    assert json.loads((folder / "config.json").read_text())["settings"]["workers"] == 2  # whoever resumes it, and how
    again = processes.torchrun([*arguments, "--resume"], tmp_path / "again")  # no rank waits for what is finished
    again.join(120)
    assert "nothing is left to resume" in (tmp_path / "again" / "out").read_text()


@pytest.mark.slow
def test_a_killed_learner_is_resumed_with_any_backend(
    tmp_path: Path, command: list[str], expected: dict[str, object]
) -> None:
    arguments = [*command, "--workers", "2", "--output", str(tmp_path / "run")]
    process = processes.command([*arguments, "--backend", "subproc"], all_of_dev=True)
    wait_for(tmp_path / "run" / "checkpoint" / "worker-0" / "journal.jsonl", lines=10)
    workers = children(process.pid or 0)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{one}/cmdline").exists() for one in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{one}/cmdline").exists() for one in workers)  # they end with the learner
    assert main([*arguments, "--backend", "dummy", "--resume"]) == 0
    assert left(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_signal_to_torchrun_has_all_ranks_save(tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "run"
    longer = ["--steps", "200", "--checkpoint-seconds", "1000", "--backend", "torchrun", "--output", str(folder)]
    process = processes.torchrun(last_said([*command, *longer]), tmp_path / "ranks")
    replay_logs = [folder / "checkpoint" / f"worker-{rank}" for rank in range(2)]
    for replay_log in replay_logs:
        wait_for(replay_log / "journal.jsonl", lines=10)
    process.terminate()
    began = time.monotonic()
    process.join(60)
    assert not process.is_alive()
    assert time.monotonic() - began < 20  # 10 where nothing else runs
    said = (tmp_path / "ranks" / "errors").read_text()
    assert "ackd: stopped; --resume goes on" in said
    assert "ackd: stopped\n" not in said  # as who was ended with what it had not saved
    assert all((replay_log / "state.pt").is_file() for replay_log in replay_logs)


def wait_for(path: Path, *, lines: int) -> None:
    until = time.monotonic() + 240
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < until, f"{path} does not grow"
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """All processes below it."""
    own = [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return own + [grandchild for one in own for grandchild in children(one)]


def test_cohorts_in_workers_number_their_episodes(tmp_path: Path, command: list[str]) -> None:
    arguments = [*command, "--episodes", "8", "--students", "2", "--workers", "2", "--backend", "dummy"]
    assert main(last_said([*arguments, "--output", str(tmp_path / "run")])) == 0
    with (tmp_path / "run" / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["episode"] for row in rows if row["decision"] == "0"] == [str(i) for i in range(9)]
    assert all(sum(row["episode"] == str(i) for row in rows) == 4 for i in range(9))
    seeds = [row["seed"] for row in rows if row["decision"] == "0"]
    assert seeds[0:8:2] == seeds[1:8:2]  # the students of a cohort begin alike
    assert len(set(seeds[0:8:2])) == 4  # and those of another cohort otherwise
    costs = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert costs["steps"] == 5 * 8  # four cohorts and a student
    card = load(tmp_path / "run" / "policy").card
    assert card.cost["student_steps"] == 8 * 8
    assert not {"workers", "backend"} & card.instances[0].keys()


@pytest.mark.parametrize("order", ["round-robin", "sampled"])
def test_instances_are_shared_out_in_the_same_order(tmp_path: Path, teacher: Path, order: str) -> None:
    """Which instance and which seed the g-th episode has does not depend on how many workers there are."""
    file = tmp_path / "set.json"
    setting = {"task": "polarity", "teacher": "polarity", "max_examples": 400, "steps": 4, "decision_interval": 2}
    instances = [
        {"name": f"i{n}", "split": "train", "seeds": [10 * n, 2], "student_layers": 1 + n % 2} for n in range(3)
    ]
    defaults = {**setting, "batch_size": 8, "types": ["logits"]}
    content = {"format": 1, "name": "s", "description": "", "defaults": defaults, "instances": instances}
    file.write_text(json.dumps(content))
    seeds = []
    for workers in ("1", "2"):
        arguments = ["train", "--instances", str(file), "--teachers", str(teacher.parent), "--episodes", "6"]
        arguments += ["--steps", "4", "--workers", workers, "--order", order, "--seed", "3"]
        arguments += ["--backend", "dummy", "--output", str(tmp_path / workers)]
        assert main(arguments) == 0
        with (tmp_path / workers / "decisions.csv").open() as table:
            seeds.append({(int(row["episode"]), row["seed"]) for row in csv.DictReader(table)})
    assert seeds[0] == seeds[1]
    assert [episode for episode, _ in sorted(seeds[0])] == list(range(6))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workers", "2", "--backend", "subprocess"], "unknown backend 'subprocess': did you mean 'subproc'"),
        (["--workers", "0"], "give --workers 1 or more"),
        (["--workers", "3"], "4 episodes are no whole number of rounds of 3 students: give 6 episodes"),
        (["--workers", "2", "--students", "4"], "rounds of 8 students: give 8 episodes"),
        (["--workers", "2", "--step-timeout", "0"], "give seconds above 0"),
        (["--workers", "2", "--step-timeout", "inf"], "--step-timeout is inf: give seconds above 0, and at most 1e+06"),
        (["--workers", "2", "--ray-address", "h:1"], "add --backend ray"),
        (["--workers", "2", "--backend", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--backend", "torchrun"], "needs torchrun to start it: torchrun --nproc-per-node 4 -m ackd train"),
    ],
)
def test_bad_input(
    tmp_path: Path, command: list[str], arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *arguments, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
