"""Dynamic distillation from the command line: a student of one run is the small teacher of the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ackd.cli import main

SHORT = ["--student-layers", "2", "--max-examples", "400", "--reward-examples", "40", "--batch-size", "10"]
SHORT += ["--steps", "6", "--decision-interval", "2", "--lr", "5e-4"]


def distilled(folder: Path, teachers: list[Path], *more: str) -> dict[str, Any]:
    """The ledger of a run with these options."""
    arguments = ["distill", "--task", "polarity", "--teacher", *map(str, teachers), *SHORT, *more]
    assert main([*arguments, "--output", str(folder)]) == 0
    costs: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    return costs


def test_the_three_of_them_run(tmp_path: Path, teacher: Path) -> None:
    data = distilled(tmp_path / "small", [teacher], "--preset", "dynamickd-data", "--keep", "0.1", "--score", "entropy")
    assert data["teacher_queries"] == 6
    accounts, student = data["accounts"], data["flops"]["student"] / 3
    assert accounts["as_run"] == pytest.approx(2 * student + data["flops"]["teacher"], rel=1e-9)
    assert student + data["flops"]["teacher"] < accounts["as_in_paper"] < accounts["as_run"]
    both = [tmp_path / "small", teacher]
    hard = distilled(tmp_path / "hard", both, "--preset", "dynamickd-teacher")
    assert hard["teacher_queries"] == 6 * 10  # each example is asked of one of the two
    soft = distilled(
        tmp_path / "soft", both, "--preset", "dynamickd-teacher", "--options", "adoption=soft", "attached=yes"
    )
    assert soft["teacher_queries"] == 2 * 6 * 10
    kept = [
        "--preset",
        "dynamickd-data,dynamickd-objective",
        "--keep",
        "0.5",
        "--options",
        "train_on=kept",
        "reverse=yes",
    ]
    assert distilled(tmp_path / "objective", [teacher], *kept)["teacher_queries"] == 6 * 5


def test_a_preset_can_be_looked_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "dynamickd-data"]) == 0
    said = capsys.readouterr().out
    assert "https://arxiv.org/abs/2109.11295" in said
    assert "keep=0.5, score=margin, train_on=all, loss=mse, tau=5" in said


def test_one_teacher_too_few_is_told_before_anything_starts(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--preset", "dynamickd-teacher"]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
    assert "'dynamickd-teacher' takes 2 teachers, and 1 was named" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
