"""On real data and a real pretrained encoder, where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from ackd import models, tasks
from ackd.building.setting import prepare
from ackd.cli import main
from ackd.training.distillation import Distillation
from ackd.types import OutputRequest

SHORT = ["--student-layers", "3", "--max-examples", "120", "--steps", "4"]
SHORT += ["--decision-interval", "2", "--batch-size", "8", "--reward-examples", "32"]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "expected"), [("sst2", 0.882), ("mrpc", 0.792)])
def test_the_teachers_score_what_they_are_said_to(shared: Path, task: str, expected: float) -> None:
    """The whole path from file to metric against figures that were computed elsewhere."""
    teacher = models.load_model(shared / "models" / f"minilm-l6-{task}")
    tokenizer = models.load_tokenizer(shared / "models" / f"minilm-l6-{task}")
    data = tasks.load(task, tokenizer, data=shared / "glue", max_examples=600)
    probe = Distillation(data, (), lambda: teacher, steps=1)
    assert probe.evaluate(data.dev["validation"], "validation").score == pytest.approx(expected, abs=6e-4)


def test_captured_attention_equals_eager_attention_on_a_real_model(shared: Path) -> None:
    folder = shared / "models" / "minilm-l6-sst2"
    model, eager = models.load_model(folder).eval(), models.load_model(folder).eval()
    eager.set_attn_implementation("eager")
    data = tasks.load("mrpc", models.load_tokenizer(folder), data=shared / "glue", max_examples=600)
    batch = data.train.batch([0, 1, 2, 3])
    with torch.no_grad():
        outputs = models.run(model, batch, OutputRequest(logits=True, attention=frozenset({0, 5})))
        expected = eager(**batch.inputs, output_attentions=True)
    assert outputs.logits is not None
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
    for layer in (0, 5):
        scores = outputs.attention[layer].masked_fill(batch.mask[:, None, None, :] == 0, -torch.inf)
        assert torch.allclose(scores.softmax(-1), expected.attentions[layer], atol=1e-5)


def test_regression_distils_too(shared: Path, make_regression_teacher: Path) -> None:
    distillation = prepare(
        task="stsb",
        data=str(shared / "glue"),
        teacher=str(make_regression_teacher),
        student_layers=1,
        max_examples=600,
        steps=2,
        batch_size=8,
    )
    from ackd import Selection, distill

    (report,) = distill(distillation, Selection.of("logits", "hidden", "attention"))
    assert report.finite
    eval_result = distillation.evaluate(distillation.task.dev["validation"], "validation")
    assert set(eval_result.scores) == {"pearson", "spearman"}


@pytest.fixture
def make_regression_teacher(shared: Path, tmp_path: Path) -> Path:
    tokenizer = models.load_tokenizer(shared / "models" / "minilm-l6")
    config = models.small_config(len(tokenizer), 1, layers=2, width=16, heads=2)
    models.save_model(tmp_path / "teacher", models.from_config(config)(), tokenizer)
    return tmp_path / "teacher"


@pytest.fixture
def some_glue(shared: Path, tmp_path: Path) -> str:
    """The first examples of two tasks, as a folder in GLUE's layout."""
    for task in ("sst2", "mrpc"):
        (tmp_path / "glue" / task).mkdir(parents=True)
        for split, count in (("train", 240), ("validation", 64)):
            table = pyarrow.parquet.read_table(shared / "glue" / task / f"{split}.parquet")
            pyarrow.parquet.write_table(table.slice(0, count), tmp_path / "glue" / task / f"{split}.parquet")
    return str(tmp_path / "glue")


@pytest.mark.slow
def test_a_policy_learned_on_one_task_is_used_on_another(shared: Path, some_glue: str, tmp_path: Path) -> None:
    data, teachers = some_glue, [str(shared / "models" / f"minilm-l6-{t}") for t in ("sst2", "mrpc")]
    arguments = ["train", "--task", "sst2", "--data", data, "--teacher", teachers[0], *SHORT, "--episodes", "1"]
    assert main([*arguments, "--output", str(tmp_path / "train")]) == 0
    arguments = ["evaluate", "--tasks", "mrpc", "--data", data, "--teachers", teachers[1], *SHORT, "--seeds", "1"]
    policies = ["--policies", "labels", str(tmp_path / "train")]
    assert main([*arguments, *policies, "--output", str(tmp_path / "table")]) == 0
    cells = json.loads((tmp_path / "table" / "result.json").read_text())["cells"]
    assert all(cell["teacher_score"] > 70 for cell in cells)
    assert all(0 < cell["dev_score"] < 100 for cell in cells)
