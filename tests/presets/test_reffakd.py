"""ReffAKD and label smoothing against their formulas, and what a training without a teacher does elsewhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import distill, models, prepare, tasks
from ackd.costs import CostTracker
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import distill as environment
from ackd.errors import InputError
from ackd.models import Meter, shape_of
from ackd.presets import Material, Preset, preset
from ackd.tasks import Split
from ackd.teachers import LabelTeacher
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import ModelDims, OutputRequest

CLASSES, SIZE = 3, 24
SMALL = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32, "max_position_embeddings": 128, "initializer_range": 0.1}


@pytest.fixture
def split() -> Split:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, SIZE)
    tokens, offsets = rng.integers(5, 50, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
    return Split({"input_ids": tokens}, offsets, np.arange(SIZE) % CLASSES, np.arange(SIZE), {"input_ids": 0})


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A student of the digits, as its JSON config."""
    path = tmp_path / "student.json"
    path.write_text(json.dumps({**SMALL, "vocab_size": len(tasks.embedded_tokenizer("digits"))}))
    return str(path)


def ready(student: str, **changes: Any) -> Distillation:
    given = {"task": "digits", "preset": "reffakd", "steps": 4, "max_examples": 200, "batch_size": 8, **changes}
    if given["preset"] == "reffakd":
        given["options"] = {"fit_steps": 30}
    return prepare(student=student, **given)


def loss_of(name: str, split: Split, **options: Any) -> tuple[float, Tensor, Tensor]:
    """A step's loss over all of a split; the student's logits before it and the table, in float64."""
    settings = models.small_config(50, CLASSES, layers=2, width=16, heads=2)
    settings.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = models.from_config(settings)().eval()
    if name == "reffakd":
        options = {"fit_steps": 20, **options}
    found = preset(name, shape_of(model), [], **options)
    assert found.revise is not None
    (teacher,) = found.revise([], Material(split, CLASSES, models.from_layers(model, 2), torch.device("cpu")))
    assert isinstance(teacher, LabelTeacher)
    batch = split.batch(range(SIZE))
    with torch.no_grad():
        logits: Tensor = model(**batch.inputs).logits.double()
    learner = Student(model, found.knowledge, steps=4, lr=1e-3)
    distiller = Distiller(
        learner, [teacher], found.knowledge, meter=Meter(model), costs=CostTracker(), scale_steps=0
    )  # fmt: skip
    return float(distiller.step([batch], found.stages[0].selection).loss), logits, teacher.table.double()


@pytest.mark.parametrize("form", ["kl", "ce"])
@pytest.mark.parametrize(("alpha", "tau"), [(0.5, 5.0), (0.3, 1.0)])
def test_the_target_is_not_tempered_and_the_student_is(split: Split, form: str, alpha: float, tau: float) -> None:
    found, logits, table = loss_of("reffakd", split, form=form, alpha=alpha, tau=tau)
    labels = torch.from_numpy(split.labels)
    q, log_p = table[labels], (logits / tau).log_softmax(1)
    soft = (q * (q.log() - log_p)).mean() if form == "kl" else -(q * log_p).sum(1).mean()
    expected = (1 - alpha) * F.cross_entropy(logits, labels) + alpha * tau**2 * soft
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_label_smoothing_is_torchs_own(split: Split) -> None:
    found, logits, _ = loss_of("label-smoothing", split, epsilon=0.2)
    expected = F.cross_entropy(logits, torch.from_numpy(split.labels), label_smoothing=0.2)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_options_reach_the_table(split: Split) -> None:
    """The published temperature leaves the soft labels almost uniform."""
    flat, sharp = (
        loss_of("reffakd", split, similarity_temperature=temperature)[2] for temperature in (1.0, 0.02)
    )  # fmt: skip
    assert flat.max() - flat.min() < 0.3 < sharp.max() - sharp.min()
    boosted = loss_of("reffakd", split, boost="2")[2]
    assert (boosted.diagonal() > loss_of("reffakd", split)[2].diagonal()).all()
    assert not torch.equal(sharp, loss_of("reffakd", split, similarity_temperature=0.02, seed=1)[2])
    assert not torch.equal(sharp, loss_of("reffakd", split, similarity_temperature=0.02, per_class=3)[2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("reffakd", {"alpha": 1.0}, "alpha must be above 0 and below 1, got 1.0"),
        ("reffakd", {"alpha": float("nan")}, "alpha must be"),
        ("reffakd", {"tau": 0.0}, "the temperature must be above 0"),
        ("reffakd", {"form": "mse"}, "there is no form 'mse': use kl or ce"),
        ("reffakd", {"boost": "much"}, "the boost is a number or 'least', not 'much'"),
        ("label-smoothing", {"epsilon": 0.0}, "epsilon must be above 0 and below 1"),
        ("label-smoothing", {"tau": 2.0}, "'tau' is no option of the preset 'label-smoothing', but of"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        preset(name, ModelDims(2, 16, 2, CLASSES, 50), [], **options)


@pytest.mark.parametrize("name", ["reffakd", "label-smoothing"])
def test_a_regression_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="which a regression has not"):
        preset(name, ModelDims(2, 16, 2, 1, 50), [])


def test_one_preset_has_the_losses() -> None:
    shape = ModelDims(2, 16, 2, CLASSES, 50)
    with pytest.raises(InputError, match="both say which losses there are"):
        preset("reffakd,label-smoothing", shape, [])
    assert isinstance(preset("reffakd", shape, [shape]), Preset)


def test_images_make_the_table_and_nobody_is_compared_with(config: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ackd"):
        distillation = ready(config)
    assert "soft labels from images" in caplog.text
    assert "the label in 10 of 10 rows" in caplog.text
    (teacher,) = distillation.teachers
    assert isinstance(teacher, LabelTeacher)
    assert teacher.table.argmax(1).tolist() == list(range(10))
    assert distillation.reference is None
    reports = distill(distillation, distillation.staged)
    assert reports[-1].losses.keys() == {"logits"}
    assert distillation.costs.flops["teacher"] == distillation.prepared.flops["teacher"] > 0
    assert distillation.costs.seconds["teacher"] > distillation.prepared.seconds["teacher"] > 0
    with pytest.raises(InputError, match="there is no teacher to represent"):
        distillation.represent()
    assert ready(config).teachers[0].fingerprint == teacher.fingerprint


def test_rewards_without_a_teacher_are_plain_differences(config: str, caplog: pytest.LogCaptureFixture) -> None:
    env = environment(
        task="digits", student=config, preset="label-smoothing", max_examples=200, reward_examples=20, steps=4,
        batch_size=8, decision_interval=2, lr=1e-3, cost_weight=0.0,
    )  # fmt: skip
    cohort = CohortEnv([env], 2)
    for _ in range(2):
        cohort.reset()
    env.reset(seed=1)
    assert caplog.text.count("there is no teacher to compare with, so rewards are plain differences") == 1
    assert env.episode is not None
    assert env.episode.teacher is None
    start = env.episode.start
    _, reward, *_ = env.step(env.action_space.sample())
    last = env.episode.phases[-1].eval_result
    assert start is not None
    assert last is not None
    assert reward == pytest.approx(last.label_correlation - start.label_correlation)
    assert last.agreement == last.label_correlation / 2
    with pytest.raises(InputError, match="no teacher whose first-token outputs"):
        env.variant(observe_cls=True)


def test_a_teacher_that_is_named_is_compared_with_and_teaches_nothing(config: str, tmp_path: Path) -> None:
    tokenizer = tasks.embedded_tokenizer("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.from_config(models.small_config(len(tokenizer), 10, layers=3, width=16, heads=2))()
    models.save_model(tmp_path / "teacher", model, tokenizer)
    alone = ready(config)
    beside = ready(config, teacher=str(tmp_path / "teacher"), teacher_weights=[3.0])
    assert beside.reference is beside.teachers[0]
    losses = [distill(one, one.staged, seed=2)[-1].loss for one in (alone, beside)]
    assert losses[0] == losses[1]
    assert alone.costs.flops == beside.costs.flops
    assert beside.represent()[1]
    with pytest.raises(InputError, match="takes at most 1 teacher"):
        ready(config, teacher=[str(tmp_path / "teacher")] * 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": None}, r"no teacher was named: .* a preset that needs none \(reffakd or label-smoothing\)"),
        ({"preset": "kd"}, "'kd' takes 1 teacher, and 0 were named"),
        ({"task": "sst2"}, "no teacher was named, nor a student that brings a tokenizer for sst2"),
        ({"student": None, "student_layers": 2}, "--student-layers are those of a teacher, and none was named"),
        ({"teacher_weights": [1.0]}, "each of the 0 teachers"),
        ({"types": ["logits"]}, "brings its own knowledge types"),
    ],
)
def test_what_needs_a_teacher_says_so(config: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ready(**{"student": config, **changes})


def test_answers_are_the_tables_rows(config: str) -> None:
    distillation = ready(config, preset="label-smoothing")
    batch = distillation.task.train.batch([0, 5])
    answer = distillation.teachers[0](batch, OutputRequest(logits=True), CostTracker())
    assert answer.logits is not None
    torch.testing.assert_close(answer.logits.softmax(1), torch.full((2, 10), 0.1))
