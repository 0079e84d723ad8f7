"""The grid of plain distillation: judged without dev, taken up again after a stop, and what it recommends is true."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ackd import models
from ackd.cli import main
from ackd.presets import preset
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.types import Batch, ModelDims, Outputs
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "200", "--batch-size", "8", "--lr", "2e-3"]
SHORT += ["--reward-examples", "64", "--checkpoint-seconds", "0"]
STEPS = 22  # a phase of 20, and another


def tune(folder: Path, teacher: Path, *more: str) -> int:
    arguments = ["tune", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--steps", str(STEPS)]
    arguments += ["--temperature", "1", "4", "--kd-weight", "0.1", "0.9", "--first-seed", "3"]
    return main(last_said([*arguments, *more, "--output", str(folder)]))


def result(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "result.json").read_text())
    read.pop("seconds")
    for cell in read["cells"]:
        cell.pop("seconds")
    return read


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "whole"
    assert tune(folder, teacher) == 0
    return folder


def test_the_best_of_the_grid_is_chosen_on_the_reward_split(whole: Path) -> None:
    read = result(whole)
    cells = read["cells"]
    assert [(one["temperature"], one["kd_weight"]) for one in cells] == [
        (1, 0.1),
        (1, 0.9),
        (4, 0.1),
        (4, 0.9),
        (1, 0.5),
    ]
    best = max(cells[:4], key=lambda one: (one["reward_score"], -one["reward_loss"]))
    assert all(read["best"][name] == best[name] for name in read["best"])
    gain, untuned = read["dev_score"] - read["initial_dev_score"], read["untuned_dev_score"] - read["initial_dev_score"]
    assert read["gain"] == pytest.approx(gain, abs=1e-3)
    expected = (read["dev_score"] - read["untuned_dev_score"]) / untuned if untuned > 0 else None
    assert read["relative_gain"] == (expected if expected is None else pytest.approx(expected))
    with (whole / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["reward_loss"]) for row in rows] == [one["reward_loss"] for one in cells]
    assert rows[-1]["note"] == "untuned, not in the grid"
    assert sum("best" in row["note"] for row in rows) == 1
    assert not (whole / "students").exists()
    assert models.shape_of(models.load_model(whole)).layers == 2


def test_the_line_that_it_prints_trains_the_same_student(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(result(whole)["command"])
    assert words.pop(0) == "ackd"
    assert words[-2:] == ["--output", "RUN"]
    assert main([*words[:-1], str(tmp_path / "run")]) == 0
    ours, theirs = (load_file(folder / "student" / "model.safetensors") for folder in (whole, tmp_path / "run"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["dev_score"] == result(whole)["dev_score"]


@pytest.mark.parametrize("stop", [3 * STEPS + 21])
def test_a_stopped_search_goes_on_where_it_was(
    whole: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    taken, step = 0, Distiller.step

    def counted(self: Distiller, *args: Any) -> Any:
        nonlocal taken
        if taken == stop:
            taken += 1
            raise KeyboardInterrupt
        taken += 1
        return step(self, *args)

    monkeypatch.setattr(Distiller, "step", counted)
    folder = tmp_path / "run"
    assert tune(folder, teacher) == 130
    taken = stop + 1
    assert tune(folder, teacher, "--resume") == 0
    lost = stop % STEPS if stop % STEPS < 20 else stop % STEPS - 20  # since the last checkpoint
    assert taken - stop - 1 == 5 * STEPS - stop + lost
    assert result(folder) == result(whole)
    same = [path / "student" / "model.safetensors" for path in (folder, whole)]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_dev_is_read_when_all_is_chosen(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    measure = Distillation.evaluate

    def noted(self: Distillation, split: Any, name: str) -> Any:
        asked.append(name)
        return measure(self, split, name)

    monkeypatch.setattr(Distillation, "evaluate", noted)
    assert tune(tmp_path / "run", teacher, "--seeds", "2", "--steps", "2") == 0
    assert asked[:10] == ["reward"] * 10
    assert set(asked[10:]) == {"validation"}
    assert [len(one["reward_scores"]) for one in result(tmp_path / "run")["cells"]] == [2] * 5


def test_a_cell_that_diverges_is_marked_and_not_chosen(tmp_path: Path, teacher: Path) -> None:
    arguments = ["--temperature", "1e-40", "2", "--kd-weight", "0.5", "--steps", "2"]
    assert tune(tmp_path / "run", teacher, *arguments) == 0
    read = result(tmp_path / "run")
    assert [one["error"] for one in read["cells"]] == ["divergence", "", ""]
    assert read["cells"][0]["reward_score"] is None
    assert read["best"]["temperature"] == 2
    assert "| diverged |" in (tmp_path / "run" / "table.md").read_text()


def test_a_grid_that_diverges_as_a_whole_says_so(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(tmp_path / "run", teacher, "--temperature", "1e-40", "--kd-weight", "1", "--steps", "1") == 1
    assert "every training of the grid diverged: lower --lr (0.002)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "1", "0"], "--temperature has 0.0: give numbers above 0"),
        (["--temperature", "nan"], "--temperature is 'nan'"),
        (["--kd-weight", "0.5", "1.5"], "--kd-weight has 1.5: give numbers from 0 to 1"),
        (["--kd-weight", "0.5", "0.5"], "--kd-weight has 0.5 twice"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--steps", "0"], "steps must be above 0"),
    ],
)
def test_bad_values_are_refused(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert tune(tmp_path / "run", teacher, *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_average_of_teachers_has_the_gradient_of_their_averaged_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = ModelDims(layers=2, width=8, heads=2, classes=4, vocabulary=50)
    method = preset("kd-average", shape, [shape] * 3, alpha=0.6, tau=2.0)
    (stage,) = method.stages
    assert stage.selection.labels == pytest.approx(0.4)
    batch = Batch(torch.arange(5), {"attention_mask": torch.ones(5, 1)}, torch.zeros(5, dtype=torch.int64))
    teachers = [torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    student = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = stage.selection.weights
    loss = sum(
        weights[one.name] * one(Outputs(student), Outputs(teachers[one.teacher]), batch).mean()
        for one in method.knowledge
    )
    (ours,) = torch.autograd.grad(loss, student)
    z, p = student.detach().numpy() / 2, np.mean([torch.softmax(one / 2, -1).numpy() for one in teachers], axis=0)
    q = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(ours.numpy(), 0.6 * 4 * (q - p) / 2 / 5, atol=1e-12)
