"""Soft labels without a teacher, as a user asks for them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ackd import models, tasks
from ackd.cli import main

SHORT = ["--max-examples", "300", "--steps", "6", "--decision-interval", "3", "--batch-size", "8", "--lr", "1e-3"]
SHORT += ["--reward-examples", "40"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("task", ["digits", "polarity"])
def test_a_student_from_a_config_needs_no_teacher(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tasks.embedded_tokenizer(task)
    config = tmp_path / "student.json"
    config.write_text(json.dumps({"model_type": "bert", "vocab_size": len(tokenizer), **SIZES}))
    run = tmp_path / "run"
    arguments = ["distill", "--preset", "reffakd", "--task", task, "--student", str(config), *SHORT]
    assert main([*arguments, "--options", "form=ce", "tau=1", "fit_steps=20", "--output", str(run)]) == 0
    assert "on dev (no teacher)" in capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert (result["policy"], result["teacher_score"], result["error"]) == ("reffakd", None, "")
    assert json.loads((run / "ledger.json").read_text())["flops"]["teacher"] > 0
    rows = list(csv.DictReader((run / "decisions.csv").read_text().splitlines()))
    assert [row["selection"] for row in rows] == ["logits-soft-ce"] * 2
    assert models.load_tokenizer(run).get_vocab() == tokenizer.get_vocab()
    assert models.load_model(run).config.num_labels == tasks.EMBEDDED[task].num_labels
    assert main(["report", str(run)]) == 0


def test_digits_have_a_teacher_that_students_are_cut_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = tmp_path / "teacher"
    given = ["--task", "digits", "--max-examples", "300", "--reward-examples", "30"]
    assert (
        main(["finetune", *given, "--epochs", "6", "--batch-size", "16", "--lr", "1e-3", "--output", str(teacher)]) == 0
    )
    assert json.loads((teacher / "result.json").read_text())["dev_score"] > 15  # guessing gets 10
    given = ["distill", "--task", "digits", "--teacher", str(teacher), "--student-layers", "2", *SHORT]
    cache = ["--cache", str(tmp_path / "cache")]
    assert main([*given, *cache, "--policy", "random", "--output", str(tmp_path / "random")]) == 0
    assert main([*given, "--preset", "label-smoothing", "--output", str(tmp_path / "smooth")]) == 0
    assert "(teacher " in capsys.readouterr().out


def test_a_student_from_a_folder_brings_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = tasks.embedded_tokenizer("polarity")
    model = models.from_config(models.small_config(len(tokenizer), 2, layers=1, width=16, heads=2))()
    models.save_model(tmp_path / "start", model, tokenizer)
    arguments = ["distill", "--preset", "label-smoothing", "--task", "polarity", "--student", str(tmp_path / "start")]
    assert main([*arguments, *SHORT, "--output", str(tmp_path / "run")]) == 0


def test_what_needs_a_teacher_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.json").write_text("{}")
    student = str(tmp_path / "small.json")
    given = ["distill", "--task", "digits", "--student", student, "--output", str(tmp_path / "run")]
    assert main(given) == 2
    assert "no teacher was named" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
