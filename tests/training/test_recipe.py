"""How students learn: the optimizer's settings, the course of the learning rate, and how long."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ackd import Selection, distill, models, prepare, tasks
from ackd.building.students import students
from ackd.cli import Command, main
from ackd.cli.evaluate import Evaluate
from ackd.cli.federate import Federate
from ackd.cli.train import Train
from ackd.config import STEPS, RecipeConfig
from ackd.envs.instance_files import over, read_instances
from ackd.envs.recording import Recording
from ackd.errors import InputError
from ackd.experiments.cells import Cells
from ackd.experiments.federated import FederatedTraining
from ackd.experiments.hosting import Students, environment
from ackd.experiments.instances import check_instances
from ackd.federation.mutual import MutualLearning
from ackd.numerics.streams import RngStreams
from ackd.training.distillation import Distillation
from ackd.training.recipe import Recipe, length
from ackd.training.sampler import LengthGroupedSampler
from tests.learned import weights

SETTINGS: dict[str, Any] = {
    "warmup": 0.25,
    "schedule": "cosine",
    "weight_decay": 0.3,
    "adam_betas": (0.8, 0.95),
    "gradient_clipping": 0.05,
}
WORDS = "--warmup 0.25 --schedule cosine --weight-decay 0.3 --adam-betas 0.8 0.95 --gradient-clipping 0.05".split()
LR, TOTAL, SIZE = 1e-2, 8, 8


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("teachers") / "polarity"
    tokenizer = tasks.embedded_tokenizer("polarity")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=2, width=16, heads=2, dropout=0.0))()
    models.save_model(folder, model, tokenizer)
    return str(folder)


def ready(teacher: str, **changes: Any) -> Distillation:
    setting: dict[str, Any] = {"student_layers": 1, "max_examples": 300, "batch_size": SIZE, "lr": LR}
    if "epochs" not in changes:
        setting["steps"] = TOTAL
    return prepare(task="polarity", teacher=teacher, **{**setting, **changes})


def course(schedule: str, rise: int, steps: int) -> list[float]:
    """The rates by interpolation between corners: (step + 1) / rise, then from 1 to where the schedule ends."""
    at = np.arange(steps)
    falling = {
        "linear": np.interp(at, [rise, steps], [1, 0]),
        "constant": np.ones(steps),
        "cosine": 0.55 + 0.45 * np.cos(np.interp(at, [rise, steps], [0, np.pi])),
    }[schedule]
    return [float(value) for value in np.minimum((at + 1) / rise, falling)]


@pytest.mark.parametrize(("warmup", "rise"), [(0.0, 1), (0.25, 2), (0.5, 4)])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_optimizers_rate_follows_the_schedule(teacher: str, schedule: Any, warmup: float, rise: int) -> None:
    training, rates = ready(teacher, schedule=schedule, warmup=warmup), []
    while training.steps_done < TOTAL:
        rate = training.recipe.rate(training.steps_done, training.steps)
        assert rate * LR == pytest.approx(training.student.optimizer.param_groups[0]["lr"])
        rates.append(training.student.optimizer.param_groups[0]["lr"] / LR)
        training.advance(Selection(), 1)
    assert rates == pytest.approx(course(schedule, rise, TOTAL))


def still(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("key.bias"):
            parameter.grad = None


def plainly(training: Distillation, settings: dict[str, Any], clip: float | None) -> torch.Tensor:
    """The same training on labels, by torch alone; all trained weights in one row.

    Biases of keys change no attention, so their gradient is rounding, which Adam makes large: they have none here.
    """
    training.reset(3)
    model = training.student.model.train()
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is many] for many in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        betas=settings["adam_betas"],
    )
    order = LengthGroupedSampler(training.task.train.lengths, SIZE, RngStreams(3).order)
    for rate in course("cosine", 2, TOTAL):
        batch = training.task.train.batch(order.next())
        optimizer.zero_grad()
        F.cross_entropy(model(**batch.inputs).logits, batch.labels).backward()
        still(model)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = LR * rate
        optimizer.step()
    return weights(training)


@pytest.mark.parametrize(("given", "clip"), [(0.05, 0.05), (0, None)])
def test_a_student_learns_as_by_torchs_own_optimizer(teacher: str, given: float, clip: float | None) -> None:
    settings = SETTINGS | {"gradient_clipping": given}
    training = ready(teacher, types=["logits"], **settings)
    training.reset(3)
    training.student.optimizer.register_step_pre_hook(lambda *_: still(training.student.model))
    training.advance(Selection(), TOTAL)
    learned = weights(training)
    torch.testing.assert_close(learned, plainly(training, settings, clip), atol=1e-5, rtol=0)
    distill(default := ready(teacher, types=["logits"]), Selection(), seed=3)
    assert (learned - weights(default)).abs().max() > 1e-3


def told(training: Distillation) -> dict[str, Any]:
    """What the optimizer and the schedule of a training were told."""
    optimizer = training.student.optimizer
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    (betas,) = {tuple(group["betas"]) for group in optimizer.param_groups}
    return {
        "warmup": training.recipe.warmup,
        "schedule": training.recipe.schedule,
        "weight_decay": max(decays),
        "adam_betas": betas,
        "gradient_clipping": training.student.clip,
    }


def test_they_reach_the_students_of_workers(teacher: str, tmp_path: Path) -> None:
    """Whose jobs are pickled commands."""
    short = ["--student-layers", "1", "--max-examples", "300", "--epochs", "0.1", "--batch-size", "8"]
    short += ["--decision-interval", "1", "--decisions", "2"]
    arguments = ["evaluate", "--tasks", "polarity", "--teachers", teacher, *short, *WORDS, "--policies", "all"]
    evaluate = tyro.cli(Command, args=[*arguments, "preset:distilbert", "--output", str(tmp_path / "table")])
    assert isinstance(evaluate, Evaluate)
    cells = Cells(pickle.loads(pickle.dumps(evaluate)))
    for policy in ("", "preset:distilbert"):  # what is said counts for a method too
        assert told(cells.env("polarity", policy).distillation) == SETTINGS
        assert cells.env("polarity", policy).distillation.steps == 4  # 300 / 80
    arguments = ["train", "--task", "polarity", "--teacher", teacher, *short, *WORDS, "--workers", "2"]
    train = tyro.cli(Command, args=[*arguments, "--output", str(tmp_path / "run")])
    assert isinstance(train, Train)
    recording = pickle.loads(pickle.dumps(Students(train, "token")))(1)._watch
    assert isinstance(recording, Recording)
    assert told(recording.inner.distillation) == SETTINGS
    assert environment(train)[0].distillation.steps == 4


def test_finetune_takes_them_and_says_them(tmp_path: Path) -> None:
    arguments = ["finetune", "--task", "polarity", "--max-examples", "300", "--steps", "2", *WORDS]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert {name: settings[name] for name in SETTINGS} == SETTINGS | {"adam_betas": [0.8, 0.95]}
    assert (settings["steps"], settings["epochs"]) == (2, None)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2


def test_students_that_teach_each_other_take_them(tmp_path: Path) -> None:
    """The command's student is that of the same learning from Python."""
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "small.json").write_text(json.dumps({**config, "intermediate_size": 32}))
    both = [str(tmp_path / "small.json")] * 2
    arguments = [
        "mutual",
        "--task",
        "polarity",
        "--max-examples",
        "300",
        "--students",
        *both,
        "--epochs",
        "0.2",
        *WORDS,
    ]
    assert main([*arguments, "--batch-size", "20", "--lr", "1e-3", "--output", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 3
    task, factories = students(task="polarity", students=both, max_examples=300)
    learning = MutualLearning(task, factories, steps=3, batch_size=20, lr=1e-3, recipe=Recipe(**SETTINGS))
    learning.reset(0)
    learning.advance(3)
    saved = load_file(tmp_path / "run" / "student" / "model.safetensors")
    expected = learning.peers[result["chosen"] - 1].student.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in saved.items())


def test_every_training_of_a_federation_takes_them(teacher: str) -> None:
    arguments = [
        "federate",
        "--task",
        "polarity",
        "--teacher",
        teacher,
        "--student-layers",
        "1",
        "--max-examples",
        "300",
    ]
    federate = tyro.cli(Command, args=[*arguments, "--clients", "2", *WORDS, "--output", "o"])
    assert isinstance(federate, Federate)
    assert told(FederatedTraining(federate)._federation()._judge) == SETTINGS


@pytest.mark.parametrize(
    ("epochs", "changes", "steps"),
    [
        (1, {}, 38),  # 37.5
        (0.5, {"batch_size": 10}, 15),
        (2, {"batch_size": 10, "accumulate": 3}, 20),
        (1e-6, {}, 1),
    ],
)
def test_epochs_make_the_steps(teacher: str, epochs: float, changes: dict[str, Any], steps: int) -> None:
    training = ready(teacher, epochs=epochs, **changes)
    assert (len(training.task.train), training.steps) == (300, steps)
    assert training.student.steps == steps


def test_without_a_word_on_its_length_a_student_takes_as_many_steps_as_ever() -> None:
    assert length(None, None, examples=10**6, batch=1) == STEPS == 300
    command = tyro.cli(Command, args="distill --task rte --output o".split())
    assert (asdict(command)["steps"], asdict(command)["epochs"]) == (300, None)
    command = tyro.cli(Command, args="finetune --task rte --output o".split())
    assert (asdict(command)["steps"], asdict(command)["epochs"]) == (None, 3.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"warmup": -0.1}, "the warm-up is -0.1: give a share of the steps, 0 to 1"),
        ({"warmup": 1.5}, "the warm-up is 1.5"),
        ({"weight_decay": -0.1}, "the weight decay is -0.1: give 0 or more"),
        ({"adam_betas": (0.9, 1.0)}, "Adam's betas are (0.9, 1.0)"),
        ({"adam_betas": (-0.1, 0.9)}, "Adam's betas are (-0.1, 0.9)"),
        ({"gradient_clipping": -1.0}, "gradients are clipped at -1.0"),
        ({"epochs": 0.0}, "the number of epochs must be above 0, got 0.0"),
        ({"epochs": -1.0}, "the number of epochs must be above 0, got -1.0"),
        ({"epochs": 2.0, "steps": 5}, "steps (5) and epochs (2) both say how long to train: name one of them"),
    ],
)
def test_what_cannot_be_is_refused(
    wrong: dict[str, Any], words: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as caught:
        prepare(task="polarity", teacher=teacher, student_layers=1, **wrong)
    assert words in str(caught.value)
    given: list[str] = []
    for name, value in wrong.items():
        values = value if isinstance(value, tuple) else (value,)
        given += [f"--{name.replace('_', '-')}", *map(str, values)]
    pair = ["--task", "polarity", "--teacher", teacher, "--student-layers", "1"]
    commands = [["finetune", *pair[:2]], ["distill", *pair], ["train", *pair], ["tune", *pair]]
    commands += [["evaluate", "--tasks", "polarity", "--teachers", teacher, *pair[-2:]]]
    commands += [["mutual", *pair[:2], "--students", teacher, teacher]]
    if not {"steps", "epochs"} & wrong.keys():  # whose trainings have lengths of their own
        commands += [["federate", *pair]]
    for command in commands:
        assert main([*command, *given, "--output", str(tmp_path / "run")]) == 2, command
        said = capsys.readouterr().err.strip().splitlines()
        assert words in said[-1], command
        assert not (tmp_path / "run").exists()


def test_instances_have_recipes_and_lengths_of_their_own(teacher: str, tmp_path: Path) -> None:
    own = {**SETTINGS, "adam_betas": [0.8, 0.95]}
    rows: list[dict[str, Any]] = [
        {"name": "a", "split": "train", "seeds": [0, 2], "epochs": 2, **own},
        {"name": "b", "split": "train", "seeds": [0, 2]},
    ]
    defaults = {"task": "polarity", "teacher": teacher, "student_layers": 1, "max_examples": 300, "steps": 5}
    (tmp_path / "set.json").write_text(json.dumps({"format": 1, "defaults": defaults, "instances": rows}))
    first, second = read_instances(tmp_path / "set.json")
    assert "steps" not in first.setting
    assert first.published["adam_betas"] == [0.8, 0.95]
    training = prepare(**over({"steps": 300, "epochs": None, "warmup": 0.5, "batch_size": SIZE}, first.setting))
    assert told(training) == SETTINGS
    assert training.steps == 75
    assert over({"steps": None, "epochs": 3.0}, second.setting)["steps"] == 5
    assert "epochs" not in over({"steps": None, "epochs": 3.0}, second.setting)
    with pytest.raises(InputError, match="instance 'a' has epochs and an action for each phase"):
        check_instances([first, second], "ppo", {"decision_interval": 1, "decisions": None})
    check_instances([first, second], "ppo", {"decision_interval": 1, "decisions": 4})


def test_options_tell_the_defaults_that_there_are() -> None:
    told = inspect.getsource(RecipeConfig)
    for field in fields(Recipe):
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        shown = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        assert f"({shown}, or the preset's)" in told, field.name
