"""Runs that are killed by SIGKILL, again and again, end like runs that are not."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ackd.cli import Command, main
from ackd.runs.folder import RunFolder
from ackd.training.replay_log import ENTRIES
from tests import processes

SHORT = ["--student-layers", "2", "--max-examples", "60", "--steps", "12", "--decision-interval", "2"]  # two epochs
SHORT += ["--reward-examples", "40", "--lr", "5e-4", "--batch-size", "8", "--checkpoint-seconds", "0"]
KILLS = 20  # over all commands


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "policy"
    arguments = ["train", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--episodes", "2"]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder


def entries(run: Path) -> int:
    """The lines in all journals of a run: it is killed in the midst of what they tell, not while it prepares."""
    try:
        return sum(path.read_bytes().count(b"\n") for path in run.rglob(ENTRIES))
    except FileNotFoundError:  # it came or went meanwhile
        return 0


def left(folder: Path) -> dict[str, object]:
    """Everything that a run leaves and that may not depend on when it was killed."""
    files: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".safetensors", ".csv") and name != "table.csv":
            files[name] = path.read_bytes()
        elif path.is_dir() and path.name == "tensorboard":
            events = EventAccumulator(str(path))
            events.Reload()
            for tag in events.Tags()["scalars"]:
                if not tag.startswith(("spent/seconds", "spent/time", "time/", "spent/flops/re", "result/seconds")):
                    files[f"{name}: {tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    result = json.loads((folder / "result.json").read_text())
    cells = result.pop("cells", [])
    files["result"] = {name: value for name, value in result.items() if name not in ("seconds", "flops")}
    files["cells"] = [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]
    return files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "kills"),
    [
        (["train", "--episodes", "8", "--agent", "a2c"], 3),
        (["train", "--episodes", "4"], 2),
        (["train", "--episodes", "4", "--agent", "td3"], 3),
        (["train", "--episodes", "4", "--agent", "ppo", "--students", "2"], 3),
        (["distill", "--policy", "random"], 3),
        (["distill", "--refine", "--policy"], 2),
        (["evaluate", "--seeds", "2", "--search-tries", "3", "--policies", "labels", "best-static", "ucb"], 4),
    ],
    ids=["a2c", "residual", "td3", "cohort", "distill", "refine", "evaluate"],
)
def test_a_killed_run_ends_like_an_undisturbed_one(
    tmp_path: Path, teacher: Path, policy: Path, command: list[str], kills: int
) -> None:
    task = ["--tasks", "polarity", "--teachers"] if command[0] == "evaluate" else ["--task", "polarity", "--teacher"]
    arguments = [*command, *([str(policy)] if command[-1] == "--policy" else []), *task, str(teacher), *SHORT]
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    total, killed = entries(tmp_path / "whole"), 0
    again = [*arguments, "--output", str(tmp_path / "killed"), "--resume"]
    for reached in sorted(random.Random(str(command)).sample(range(2, total), kills)):
        process = processes.command(again)
        while process.is_alive() and entries(tmp_path / "killed") < reached:
            time.sleep(0.001)
        if process.exitcode is None:
            process.kill()
            killed += 1
        process.join()
    assert main(again) == 0
    whole, resumed = left(tmp_path / "whole"), left(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert resumed[name] == value, name
    assert killed > 0


def test_the_kills_add_up() -> None:
    marks = test_a_killed_run_ends_like_an_undisturbed_one.pytestmark  # type: ignore[attr-defined]
    (parameters,) = (mark for mark in marks if mark.name == "parametrize")
    assert sum(kills for _, kills in parameters.args[1]) == KILLS


def test_a_finished_run_is_left_alone(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert "nothing is left to resume" in capsys.readouterr().out
    assert main([*arguments, "--resume", "--seed", "7"]) == 2
    assert "has seed 0, and now it is 7: resume it with the same options" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


def test_a_run_is_finished_only_with_its_student(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--output", str(tmp_path / "run")]

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ackd.experiments.results.save_student", killed)
    assert main(arguments) == 130
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()


def test_a_run_of_before_an_option_came_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["distill", "--task", "polarity", "--output", str(tmp_path)]
    folder = RunFolder(tmp_path)
    folder.begin("distill", asdict(tyro.cli(Command, args=given)))
    folder.write_json("result.json", {})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["settings"]["cache_reads"]
    folder.write_json("config.json", config)
    assert main([*given, "--resume"]) == 0
    assert "nothing is left to resume" in capsys.readouterr().out


def test_other_options_than_a_finished_run_had_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands: dict[str, list[str]] = {
        "distill": ["--task", "polarity"],
        "train": ["--task", "polarity", "--workers", "1"],
        "tune": ["--task", "polarity", "--teacher", "t"],
        "mutual": ["--task", "polarity", "--students", "s"],
        "federate": ["--task", "polarity"],
        "pretrain": ["--corpus", "c"],
        "score": ["--model", "m", "--corpus", "c", "--shard", "1/1"],
        "generate": ["--model", "m", "--corpus", "c"],
    }
    for name, arguments in commands.items():
        command = tyro.cli(Command, args=[name, *arguments, "--output", str(tmp_path / name)])
        folder = RunFolder(tmp_path / name)
        folder.begin(name, asdict(command))
        folder.write_json("result.json", {})
        again = [name, *arguments, "--output", str(tmp_path / name), "--resume"]
        assert main(again) == 0
        assert "nothing is left to resume" in capsys.readouterr().out
        assert main([*again, "--batch-size", "7"]) == 2
        assert "and now it is 7: resume it with the same options" in capsys.readouterr().err
        if name not in ("score", "generate"):  # all the others train
            assert main([*again, "--adam-betas", "0.9", "0.98"]) == 2
            assert "has adam_betas None, and now it is [0.9, 0.98]" in capsys.readouterr().err
        (folder.path / "result.json").write_text("{")
        assert main(again) == 2
        assert "result.json is damaged (it is not JSON" in capsys.readouterr().err


def test_other_settings_are_not_resumed(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    (tmp_path / "run" / "result.json").unlink()
    assert main([*arguments, "--resume", "--seed", "7"]) == 2
    assert "has seed 0, and now it is 7" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--overwrite"]) == 2
    assert "choose one" in capsys.readouterr().err


def test_a_table_grows(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*policies: str, seeds: int) -> list[dict[str, object]]:
        arguments = ["evaluate", "--tasks", "polarity", "--teachers", str(teacher), *SHORT, "--resume"]
        arguments += ["--policies", *policies, "--seeds", str(seeds), "--output", str(tmp_path / "table")]
        assert main(arguments) == 0
        cells = json.loads((tmp_path / "table" / "result.json").read_text())["cells"]
        return [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]

    first = evaluate("labels", "all", seeds=1)
    from ackd.training.distiller import Distiller

    steps = 0
    step = Distiller.step

    def counted(self: Distiller, *args: object) -> object:
        nonlocal steps
        steps += 1
        return step(self, *args)  # type: ignore[arg-type]

    def killed(self: Distiller, *args: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(Distiller, "step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        evaluate("all", "labels", "random", seeds=2)
    assert not (tmp_path / "table" / "result.json").exists()  # with it, the next would be told that nothing is left

    monkeypatch.setattr(Distiller, "step", counted)
    more = evaluate("all", "labels", "random", seeds=2)
    assert steps == 4 * 12  # one new seed of the old policies, two of the new one
    for cell in first:
        assert cell in more
    assert [cell["policy"] for cell in more] == ["all", "all", "labels", "labels", "random", "random"]
