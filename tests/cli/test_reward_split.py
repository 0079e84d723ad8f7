"""The commands say what their models have learned from, and measure rewards on what they have not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ackd import prepare
from ackd.cli import main
from ackd.tasks import read_seen
from ackd.tasks.embedded import generate
from ackd.tasks.overlap import Overlap
from ackd.tasks.seen import fingerprint

SHORT = ["--student-layers", "2", "--max-examples", "200", "--steps", "4", "--decision-interval", "2"]


@pytest.fixture(autouse=True, scope="module")
def little_to_report() -> None:
    """Not here: parts of dev are what this is about."""


def rows_of(folder: Path) -> np.ndarray[Any, Any]:
    """What a model in `folder` says of polarity."""
    seen = read_seen(folder)
    assert seen is not None
    return seen.rows(fingerprint(generate("polarity", "train")), 8000)


def distil(teacher: Path, output: Path, *more: str) -> int:
    return main(["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, *more, "--output", str(output)])


@pytest.fixture
def silent(teacher: Path, tmp_path: Path) -> Path:
    """A teacher that does not say what it has seen."""
    shutil.copytree(teacher / "model", tmp_path / "silent")
    (tmp_path / "silent" / "seen.json").unlink()
    return tmp_path / "silent"


def test_a_teacher_and_its_student_say_what_they_have_seen(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert distil(teacher, tmp_path / "run", "--reward-examples", "64", "--data-seed", "5") == 0
    assert "does not say" not in capsys.readouterr().err
    taught, learned = rows_of(teacher), rows_of(tmp_path / "run")
    assert taught.sum() == 800
    assert (learned | taught).sum() == learned.sum() <= 1000
    seen = read_seen(tmp_path / "run")
    assert seen is not None
    assert seen.complete


def test_rewards_are_measured_on_what_no_copy_of_a_teacher_has_seen(teacher: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(teacher / "model", tmp_path / "copy")
    overlap = Overlap(generate("polarity", "train").texts)
    cuts: list[dict[str, Any]] = [{"max_examples": 600}, {"reward_examples": 400, "data_seed": 3}]
    for cut in cuts:
        task = prepare(task="polarity", teacher=str(copied), student_layers=1, **cut).task
        assert not overlap.touching(rows_of(teacher))[task.reward.ids].any()


def test_a_teacher_that_does_not_say_is_told_of_once(
    silent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--tasks", "polarity", "--teachers", str(silent), *SHORT, "--seeds", "1"]
    arguments += ["--policies", "labels", "preset:kd", "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "that it was trained on" in one]
    assert line.startswith(f"{silent} does not say all that it was trained on")
    assert "--reward-from dev:0.5" in line
    assert distil(silent, tmp_path / "student") == 0
    student = read_seen(tmp_path / "student")
    assert student is not None
    assert not student.complete
    capsys.readouterr()
    assert distil(tmp_path / "student", tmp_path / "next") == 0  # and what it passed on is no more certain
    assert "does not say all" in capsys.readouterr().err


def test_a_part_of_dev_is_said_wherever_scores_are(
    silent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--reward-from", "dev:0.4", *SHORT, "--seeds", "1", "--policies", "labels", "all"]
    arguments = [
        "evaluate",
        "--tasks",
        "polarity",
        "--teachers",
        str(silent),
        *given,
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "that it was trained on" not in said.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (count,) = {cell["dev_examples"] for cell in result["cells"]}
    assert 590 <= count <= 610
    line = f"polarity: rewards are measured on a part of dev (dev:0.4), and scores on the other {count} examples."
    assert line in said.out
    assert line in (tmp_path / "run" / "table.md").read_text()
    assert result["reward_from"] == ["dev:0.4"]
    header, row, *_ = (tmp_path / "run" / "table.csv").read_text().splitlines()
    fields = dict(zip(header.split(","), row.split(","), strict=True))
    assert (fields["reward_from"], fields["dev_examples"]) == ("dev:0.4", str(count))
    assert distil(silent, tmp_path / "student", "--reward-from", "dev:0.4") == 0
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert (result["reward_from"], result["dev_examples"]) == ("dev:0.4", count)


def test_instances_say_where_rewards_are_measured(silent: Path, tmp_path: Path) -> None:
    one = {"name": "one", "split": "train", "seeds": [0, 9], "task": "polarity", "teacher": "silent"}
    setting = {"student_layers": 1, "max_examples": 100, "steps": 4, "decision_interval": 2, "batch_size": 4}
    content = {"format": 1, "instances": [{**one, **setting, "reward_from": "dev:0.3"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    arguments = ["evaluate", "--instances", str(tmp_path / "set.json"), "--seeds", "1", "--policies", "labels", "all"]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    assert "one: rewards are measured on a part of dev (dev:0.3)" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--reward-from", "dev:1.5"], "--reward-from is 'dev:1.5': give train, or dev:PART"),
        (["--reward-from", "dev:0.01"], "leaves 10 of the 1000 examples of validation to rewards"),
    ],
)
def test_a_bad_part_gets_one_sentence(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    capsys.readouterr()
    assert distil(teacher, tmp_path / "run", *more) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_gets_one_sentence(silent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (silent / "seen.json").write_text("[1]")
    capsys.readouterr()
    assert distil(silent, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "seen.json does not say what the model has seen" in said


def test_what_a_model_has_seen_goes_on_with_it(
    teacher: Path, silent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = ["finetune", "--task", "polarity", "--max-examples", "100", "--epochs", "0.2", "--data-seed", "2"]
    assert main([*learn, "--model", str(teacher), "--output", str(tmp_path / "further")]) == 0
    assert "that it was trained on" not in capsys.readouterr().err
    assert (rows_of(tmp_path / "further") | rows_of(teacher)).sum() == rows_of(tmp_path / "further").sum() > 800
    assert main([*learn, "--model", str(silent), "--output", str(tmp_path / "doubtful")]) == 0
    assert "does not say all" in capsys.readouterr().err
    doubtful = read_seen(tmp_path / "doubtful")
    assert doubtful is not None
    assert not doubtful.complete
