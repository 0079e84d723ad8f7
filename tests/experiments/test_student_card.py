"""What a saved student says of itself: the names of its classes, and a card of where it comes from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import BertConfig, pipeline

from ackd import models, tasks
from ackd.cli import main
from ackd.experiments.student_card import license_of
from tests.models.families import SIZES
from tests.models.small import save, tokenizer, write_sentences

MADE = ["--text-columns", "text", "--label-column", "label", "--reward-examples", "50", "--max-length", "16"]
SHORT = [*MADE, "--steps", "4", "--decision-interval", "2", "--batch-size", "4"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with sentences and a teacher whose card names a licence."""
    monkeypatch.chdir(tmp_path)
    write_sentences(tmp_path / "sentences.csv")
    torch.manual_seed(0)
    save(tmp_path / "teacher", models.from_config(BertConfig(**SIZES))(), tokenizer(pad_token="[PAD]"))
    (tmp_path / "teacher" / "README.md").write_text("---\nlanguage: en\nlicense: MIT\n---\n# Teacher\n")
    return tmp_path


def distil(*more: str, teacher: str = "teacher", data: str = "sentences.csv", output: str = "run") -> None:
    words = ["distill", "--task", "own", "--data", data, "--teacher", teacher, "--student-layers", "1", *SHORT]
    assert main([*words, "--output", output, *more]) == 0


def table(card: str) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_a_pipeline_prints_the_names_of_the_tasks_classes(place: Path) -> None:
    distil()
    config = json.loads((place / "run" / "student" / "config.json").read_text())
    assert config["id2label"] == {"0": "even", "1": "odd"}
    assert config["label2id"] == {"even": 0, "odd": 1}
    assert config["problem_type"] == "single_label_classification"
    (answer,) = pipeline("text-classification", model="run/student")("w4 w9 w11")
    assert answer["label"] in ("even", "odd")
    logits = models.load_model("run")(torch.tensor([[4, 9, 11]])).logits[0].detach()
    assert answer["label"] == ("even", "odd")[int(logits.argmax())]
    assert answer["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)


def test_a_pipeline_prints_the_number_of_a_regression(place: Path) -> None:
    rows = [line.rpartition(",")[0] for line in (place / "sentences.csv").read_text().splitlines()[1:]]
    lines = [f"{row},{len(row) / 7 + 0.1}" for row in rows]
    (place / "lengths.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    teacher = models.from_config(BertConfig(**SIZES, num_labels=1))()
    save(place / "one", teacher, tokenizer(pad_token="[PAD]"))
    distil(teacher="one", data="lengths.csv")
    config = json.loads((place / "run" / "student" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    (answer,) = pipeline("text-classification", model="run/student")("w4 w9")
    logits = models.load_model("run")(torch.tensor([[4, 9]])).logits.detach()
    assert answer == {"label": "label", "score": pytest.approx(float(logits), abs=1e-5)}
    assert table((place / "run" / "student" / "README.md").read_text())["task"] == "own: regression"


def test_the_card_says_where_a_student_comes_from(place: Path) -> None:
    distil("--policy", "scheduled", "--lr", "0.001", "--seed", "3")
    card = (place / "run" / "student" / "README.md").read_text()
    result: dict[str, Any] = json.loads((place / "run" / "result.json").read_text())
    costs = json.loads((place / "run" / "ledger.json").read_text())
    rows, student = table(card), models.load_model("run")
    data: Any = ModelCard(card).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "text-classification")
    assert data.tags == ["ackd", "knowledge-distillation"]
    assert rows["task"] == "own: classes even, odd"
    assert rows["distilled from"] == "teacher"
    assert rows["begins as"] == "1 layer of the teacher"
    assert rows["policy"] == "scheduled"
    expected = "labels in 100% of the steps, hidden in 50% of the steps, attention in 50% of the steps"
    assert rows["transferred"] == f"{expected}, logits in 50% of the steps"
    assert rows["learning"] == "4 steps, of 4 examples, peak learning rate 0.001, seed 3"
    assert re.fullmatch(r"sentences\.csv, \d+ training examples", rows["data"])
    size = (place / "run" / "student" / "model.safetensors").stat().st_size
    theirs = sum(one.numel() for one in models.load_model("teacher").parameters())
    own = sum(one.numel() for one in student.parameters())
    assert rows["size"] == f"{own:,} parameters, {size / 1000:.1f} kB (teacher: {theirs:,} parameters)"
    assert rows["cost of the run"].startswith(f"{sum(costs['flops'].values()) / 1e9:,.4g} GFLOPs, ")
    assert rows["license"] == "mit"
    assert f"| validation accuracy | {result['dev_score']:.2f} | {result['teacher_score']:.2f} |" in card


def test_the_card_names_no_folder_of_this_machine(place: Path) -> None:
    data = str(place / "sentences.csv")
    distil(teacher=str(place / "teacher"), data=data, output=str(place / "run"))
    card = (place / "run" / "student" / "README.md").read_text()
    assert str(place) not in card
    assert str(place.parent) not in card
    assert table(card)["distilled from"] == "teacher"


def test_a_student_is_a_teacher_and_hands_its_licence_on(place: Path) -> None:
    distil()
    assert license_of("run") == "mit"
    words = ["distill", "--task", "own", "--data", "sentences.csv", "--teacher", "run", "--student-layers", "1", *SHORT]
    assert main([*words, "--output", "again"]) == 0
    assert "\nlicense: mit\n" in (place / "again" / "student" / "README.md").read_text()


@pytest.mark.parametrize(
    ("card", "known"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: 'CC-BY-4.0'\n---\n", "cc-by-4.0"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: \x1b[2J\n---\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("\x00\xff", None),
    ],
)
def test_a_licence_is_read_from_the_front_of_a_card(place: Path, card: str, known: str | None) -> None:
    (place / "teacher" / "README.md").write_bytes(card.encode("latin-1"))
    assert license_of("teacher") == known
    assert license_of("nobody/nothing") is None


def test_every_model_that_learned_a_task_has_its_classes(place: Path) -> None:
    words = ["finetune", "--task", "own", "--data", "sentences.csv", "--model", "teacher", *MADE, "--epochs", "0.1"]
    assert main([*words, "--output", "tuned"]) == 0
    assert models.class_names(models.load_model("tuned")) == ["even", "odd"]
    assert tasks.read_seen("tuned") != tasks.NOTHING
