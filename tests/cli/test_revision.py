"""Label revision, its siblings and data partitioning as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ackd import models, tasks
from ackd.cli import main

SHORT = ["--student-layers", "2", "--max-examples", "344", "--steps", "4", "--decision-interval", "2"]
SHORT += ["--lr", "5e-4", "--batch-size", "8"]


def costs(folder: Path, teacher: Path, *more: str) -> dict[str, Any]:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, *more]
    assert main([*arguments, "--output", str(folder)]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["teacher_score"] is not None
    assert models.shape_of(models.load_model(folder)).layers == 2
    found: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    return found


@pytest.mark.parametrize(
    ("options", "queries"),
    [
        (["--preset", "label-revision", "--options", "eta=0.6", "where=all"], 32),
        (["--preset", "label-revision", "--options", "form=mse", "lambda1=2"], 32),
        (["--preset", "label-revision", "--knowledge", "hidden", "logits", "--policy", "all"], 32),
        (["--preset", "swap"], 32),
        (["--preset", "refined-logits", "--options", "beta=4"], 32),
        (["--preset", "data-partitioning", "--options", "by=confidence"], 64),
    ],
)
def test_presets_run(tmp_path: Path, teacher: Path, options: list[str], queries: int) -> None:
    assert costs(tmp_path / "run", teacher, *options)["teacher_queries"] == queries


def test_some_examples_are_distilled(tmp_path: Path, teacher: Path) -> None:
    scores = [
        costs(
            tmp_path / select, teacher, "--preset", "label-revision", "--keep", "0.5", "--options", f"select={select}"
        )
        for select in ("influence", "influence-r")
    ]
    asked = [one["teacher_queries"] for one in scores]
    scored, taught = 2 * 344, 32  # an even number of examples: each is chosen by one or the other
    assert sum(asked) == scored + taught
    assert min(asked) > 344


def test_what_cannot_work_is_told_in_one_sentence(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "student.json"
    vocabulary = len(tasks.embedded_tokenizer("polarity"))
    config.write_text(models.small_config(vocabulary, 2, layers=2, width=32, heads=4).to_json_string())
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), "--output", str(tmp_path / "run")]
    assert main([*arguments, *SHORT[2:], "--student", str(config), "--preset", "data-partitioning"]) == 2
    assert "no initial student to keep to" in capsys.readouterr().err
    assert main([*arguments, *SHORT, "--preset", "label-revision", "--options", "eta=1.5"]) == 2
    assert "eta is 1.5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
