"""What a run says before its first step is so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ackd import models, prepare, tasks
from ackd.experiments.beginning import FEW, Beginning, Size
from ackd.models import Model
from ackd.training.distillation import Distillation


def small(layers: int, seed: int = 0) -> tuple[Model, Any]:
    tokenizer = tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(models.small_config(len(tokenizer), 2, layers=layers, width=16, heads=2))(), tokenizer


def ready(**changes: Any) -> tuple[Distillation, Model]:
    teacher, tokenizer = small(3)
    how: dict[str, Any] = {
        "student_layers": 2,
        "max_examples": 100,
        "reward_examples": 60,
        "steps": 10,
        "batch_size": 8,
    }
    return prepare(task="polarity", teacher=teacher, tokenizer=tokenizer, **{**how, **changes}), teacher


def count(model: Model) -> int:
    """Each tensor once, whatever names it has."""
    return sum(
        one.numel()
        for one in {
            id(one): one for one in model.state_dict(keep_vars=True).values() if isinstance(one, torch.nn.Parameter)
        }.values()
    )


def test_the_numbers_are_those_of_the_run() -> None:
    training, teacher = ready(accumulate=2)
    begins = Beginning.of(training, students=3)
    assert (begins.train, begins.reward, begins.dev) == (100, 60, {"validation": 1000})
    assert begins.epochs == pytest.approx(10 * 2 * 8 / 100)
    assert begins.student == Size(2, count(training.student.model))
    assert begins.teachers == (Size(3, count(teacher)),)
    for fact in (
        "100 examples",
        "60 set aside",
        "--reward-examples",
        "3 students",
        "1.6 epochs each",
        f"{count(teacher):,}",
    ):
        assert fact in begins.lines
    for fact in ("100 examples", "60 set aside", "1.6 epochs", "2 layers", "3 layers"):
        assert fact in begins.line


def test_epochs_are_whole_where_they_were_asked_for() -> None:
    training, _ = ready(steps=None, epochs=2.0, batch_size=10)
    assert Beginning.of(training).epochs == 2.0


def test_few_examples_for_rewards_are_told_of_where_they_matter() -> None:
    training, _ = ready(reward_examples=FEW - 1)
    assert "hardly" in Beginning.of(training).lines
    assert "hardly" not in Beginning.of(training, rewarded=False).lines
    assert "hardly" not in Beginning.of(ready(reward_examples=FEW)[0]).lines
    assert "none set aside" in Beginning.of(ready(reward_examples=0)[0], rewarded=False).lines
    part, _ = ready(reward_from="dev:0.4")
    begins = Beginning.of(part)
    assert begins.reward + begins.dev["validation"] == 1000
    assert f"{begins.reward:,} of dev" in begins.lines


def test_gpus_that_stand_by_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    training, _ = ready()
    assert Beginning.of(training).unused == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    begins = Beginning.of(training)
    assert (begins.device, begins.unused) == ("cpu", 2)
    assert "cpu; 2 GPUs unused: --device cuda" in begins.lines


def test_a_teacher_of_ones_own_has_layers_alone() -> None:
    class Same:
        def __init__(self, model: Any) -> None:
            self._model = model
            self.shape, self.fingerprint = model.shape, "same"

        def __call__(self, *asked: Any) -> Any:
            return self._model(*asked)

        def flops(self, *asked: Any) -> float:
            return float(self._model.flops(*asked))

    training, _ = ready()
    own, tokenizer = Same(training.teachers[0]), tasks.embedded_tokenizer("polarity")
    config = models.small_config(len(tokenizer), 2, layers=1, width=16, heads=2)
    other = prepare(task="polarity", teacher=own, student=config, tokenizer=tokenizer, knowledge=["logits"], steps=1)
    assert Beginning.of(other).teachers == (Size(3),)
