"""What the end of a run says of student and teacher agrees with a count of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, pipeline

from ackd import models, prepare, tasks
from ackd.cli import main
from ackd.experiments import comparison
from ackd.experiments.comparison import BATCHES, compare, counted, latencies
from ackd.training.distillation import Distillation
from ackd.types import Batch, Selection

HOW = "--task polarity --student-layers 2 --max-examples 60 --reward-examples 20 --steps 4 --batch-size 8".split()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=3, width=16, heads=2))()
    models.save_model(folder, model, tokenizer)
    return folder


def ready(teacher: Path, **changes: Any) -> Distillation:
    how: dict[str, Any] = {"student_layers": 2, "max_examples": 60, "reward_examples": 20, "steps": 1, **changes}
    return prepare(task="polarity", teacher=str(teacher), **how)


def test_how_a_student_is_used_from_python_and_by_the_command() -> None:
    folder = Path("a run/student")
    for task, columns, command in (
        ("mrpc", (), "ackd predict --model 'a run/student' --task mrpc --output FOLDER"),
        ("mine", ("one", "other"), "--task mine --data FILE --text-columns one other --output FOLDER"),
        ("polarity", (), None),
        ("language", (), None),
    ):
        lines = comparison.use(task, folder, columns).splitlines()
        assert 'model="a run/student"' in lines[0]
        assert len(lines) == (1 if command is None else 2)
        assert command is None or lines[1].endswith(command)


def test_a_run_compares_its_student_with_its_teacher(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["distill", "--teacher", str(teacher), *HOW, "--output", str(run)]) == 0
    said = capsys.readouterr().out
    found, result = (json.loads((run / name).read_text()) for name in ("comparison.json", "result.json"))
    for side, folder, score in (("student", run / "student", "dev_score"), ("teacher", teacher, "teacher_score")):
        model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
        its = found[side]
        assert its["size"]["parameters"] == sum(one.numel() for one in model.parameters())
        assert its["size"]["layers"] == model.config.num_hidden_layers
        assert its["bytes"] == (folder / "model.safetensors").stat().st_size
        assert its["score"] == result[score]
        lengths = tasks.load("polarity", tasks.embedded_tokenizer("polarity")).dev["validation"].lengths
        ids = torch.ones(1, int(np.median(lengths)), dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        assert its["flops"] == pytest.approx(counter.get_total_flops(), rel=1e-6)
        assert its["milliseconds"].keys() == {str(count) for count in BATCHES}
        assert all(one > 0 for one in its["milliseconds"].values())
        assert f"{its['size']['parameters']:,}" in said
        assert f"{its['score']:.2f}" in said
    spent = json.loads((run / "ledger.json").read_text())["flops"]
    assert found["training"] == pytest.approx(sum(spent.values()))
    (line,) = [one for one in said.splitlines() if "pipeline(" in one]
    answer = eval(line.split("transformers.")[1], {"pipeline": pipeline})
    assert answer[0]["label"] in ("negative", "positive")


def test_quiet_runs_say_results_alone_and_time_nothing(
    teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "one", tmp_path / "other"]
    for run, more in zip(runs, ([], ["--quiet"]), strict=True):
        assert main(["distill", "--teacher", str(teacher), *HOW, *more, "--output", str(run)]) == 0
    loud, quiet = capfd.readouterr().out.split(f"tensorboard --logdir {runs[0]}\n")
    assert "to learn from" in loud
    assert "to learn from" not in quiet
    assert quiet.startswith("polarity: accuracy")
    found = json.loads((runs[1] / "comparison.json").read_text())
    assert found["student"]["milliseconds"] == found["teacher"]["milliseconds"] == {}
    weights = [(run / "student" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert (runs[0] / "decisions.csv").read_bytes() == (runs[1] / "decisions.csv").read_bytes()


def test_comparing_changes_neither_the_student_nor_what_is_drawn_next(teacher: Path) -> None:
    one, other = ready(teacher, steps=4), ready(teacher, steps=4)
    for training in (one, other):
        training.reset(3)
        training.advance(Selection.of("logits"), 2)
    spent = sum(one.costs.flops.values())
    compare(one, {"metric": "accuracy", "task": "polarity"}, one.costs)
    assert sum(one.costs.flops.values()) == spent  # what a user asks later is no part of the run
    reports = [training.advance(Selection.of("logits"), 2) for training in (one, other)]
    assert reports[0] == reports[1]


def test_latencies_are_those_of_whom_is_asked(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ready(teacher).task.dev["validation"]
    sizes: list[tuple[int, ...]] = []

    def ask(batch: Batch) -> None:
        sizes.append(tuple(batch.shape))
        time.sleep(0.002 * batch.shape[0])

    monkeypatch.setattr(comparison, "CALLS", 7)
    monkeypatch.setattr(comparison, "BRIEF", 0.05)
    found = latencies(ask, split, torch.device("cpu"))
    assert found[1] == pytest.approx(2.0, abs=1.5)
    assert found[32] == pytest.approx(64.0, abs=20.0)
    assert (1, int(np.median(split.lengths))) in sizes
    assert {rows for rows, _ in sizes} == {1, 32}
    monkeypatch.setattr(comparison, "LONG", 0.01)
    assert latencies(ask, split, torch.device("cpu")).keys() == {1}  # thirty-two would take too long


def test_flops_are_written_as_people_do() -> None:
    numbers = {0.0: "0", 999.0: "999", 1e3: "1 k", 2.094e6: "2.09 M", 999.9e6: "1e+03 M", 3e13: "30 T", 4e20: "400 E"}
    assert {value: counted(value) for value in numbers if value != 999.9e6} == {
        value: text for value, text in numbers.items() if value != 999.9e6
    }
    assert counted(999.9e6) == "1 G"
