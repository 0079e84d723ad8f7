"""A federation and mutual learning as a user types them: what they report is true, and a stop changes nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ackd import models, tasks
from ackd.cli import main
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.federation.federated import Federation, average
from ackd.federation.metrics import flips, on_own_classes, rounds_to
from ackd.tasks import Task
from ackd.training.distiller import Distiller
from tests.words import last_said

DATA = ["--max-examples", "536", "--reward-examples", "64", "--batch-size", "8", "--lr", "2e-3"]
CLIENTS, ROUNDS, LOCAL, OWN, DISTIL = 3, 2, 3, 5, 6


def federate(folder: Path, teacher: Path, *more: str) -> int:
    arguments = ["federate", "--task", "polarity", "--teacher", str(teacher), "--student-layers", "2", *DATA]
    arguments += ["--clients", str(CLIENTS), "--rounds", str(ROUNDS), "--local-steps", str(LOCAL)]
    arguments += ["--own-steps", str(OWN), "--distil-steps", str(DISTIL), "--public-examples", "64"]
    return main(last_said([*arguments, "--target", "50", *more, "--output", str(folder)]))


def result(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "result.json").read_text())
    read.pop("seconds")
    return read


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("federate") / "whole"
    assert federate(folder, teacher) == 0
    return folder


def test_it_counts_rounds_bytes_and_flips(whole: Path) -> None:
    read = result(whole)
    with (whole / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    size = sum(value.nbytes for value in load_file(whole / "student" / "model.safetensors").values())
    assert read["model_bytes"] == size
    assert [(row["start"], int(row["round"])) for row in rows] == [
        (start, round_idx) for start in ("initial", "distilled") for round_idx in range(ROUNDS + 1)
    ]
    for start, exchanges in (("initial", 0), ("distilled", 1)):
        one, mine = read["starts"][start], [row for row in rows if row["start"] == start]
        assert one["bytes"] == int(mine[-1]["bytes"]) == 2 * CLIENTS * size * (ROUNDS + exchanges)
        scores = [float(row["score"]) for row in mine]
        reached = next((round_idx for round_idx, score in enumerate(scores) if score >= 50), None)
        assert one["rounds_to_target"] == reached
        assert one["exchanges_to_target"] == (None if reached is None else reached + exchanges)
        # the metric is accuracy, so what flipped is what was gained
        assert one["gain"] == pytest.approx(one["positive_flips"] - one["negative_flips"], abs=1e-3)
        assert one["dev_score"] == pytest.approx(read["initial_dev_score"] + one["gain"], abs=1e-3)
        assert list((whole / "tensorboard" / start).iterdir())
    assert sum(read["client_examples"]) == 536 - 64
    assert not (whole / "checkpoint").exists()
    assert models.shape_of(models.load_model(whole)).layers == 2
    assert json.loads((whole / "ledger.json").read_text())["steps"] == CLIENTS * (OWN + 2 * ROUNDS * LOCAL) + DISTIL


def test_a_stopped_federation_goes_on_where_it_was(
    whole: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, step = 0, Distiller.step
    stops = [OWN + 2, 3 * OWN + 2 * LOCAL, 3 * OWN + 2 * CLIENTS * LOCAL + DISTIL + CLIENTS * LOCAL + 1]

    def counted(self: Distiller, *args: Any) -> Any:
        nonlocal taken
        if done + taken >= stops[0]:
            raise KeyboardInterrupt
        taken += 1
        return step(self, *args)

    monkeypatch.setattr(Distiller, "step", counted)
    folder, done = tmp_path / "run", 0
    kept = [OWN, 3 * OWN, 3 * OWN + 2 * CLIENTS * LOCAL + DISTIL + CLIENTS * LOCAL]  # what a stop leaves of it
    for left in kept:
        taken = 0
        assert federate(folder, teacher, "--resume") == 130
        done = left
        stops.pop(0)
    stops, taken = [10**9], 0
    assert federate(folder, teacher, "--resume") == 0
    assert taken == CLIENTS * LOCAL  # the last round alone
    assert result(folder) == result(whole)
    for name in ("table.csv", "student/model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_start_from_labels_and_a_damaged_state(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    options = ["--starts", "labels", "--kd-weight", "1", "--split", "iid"]
    with monkeypatch.context() as patched:
        patched.setattr(Federation, "consolidate", stop)
        assert federate(tmp_path / "run", teacher, *options) == 130
    (tmp_path / "run" / "checkpoint" / "client-1.pt").write_bytes(b"half of it")
    assert federate(tmp_path / "run", teacher, *options, "--resume") == 0
    said = capsys.readouterr()
    assert "client-1.pt is damaged" in said.err
    assert f'pipeline("text-classification", model="{tmp_path / "run" / "student"}")' in said.out
    assert federate(tmp_path / "whole", teacher, *options) == 0
    assert result(tmp_path / "run") == result(tmp_path / "whole")
    assert result(tmp_path / "run")["starts"].keys() == {"labels"}
    assert federate(tmp_path / "run", teacher, *options, "--resume") == 0
    assert "nothing is left to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clients", "1"], "a federation of 1 client is none: give at least 2 clients"),
        (["--clients", "1000"], "1000 clients cannot share 472 examples"),
        (["--split", "zipf:1"], "unknown split 'zipf'"),
        (["--split", "dirichlet:0"], "a Dirichlet concentration of 0"),
        (["--split", "dirichlet:-2"], "a Dirichlet concentration of -2"),
        (["--target", "0"], "--target is 0: give a score in percent"),
        (["--target", "101"], "--target is 101"),
        (["--target", "nan"], "--target is 'nan'"),
        (["--public-examples", "536"], "--public-examples is 536 of 536"),
        (["--rounds", "0"], "--rounds is 0: at least 1"),
        (["--kd-weight", "2"], "--kd-weight is 2.0"),
        (["--temperature", "0"], "--temperature is 0.0"),
        (["--starts", "random"], "unknown start 'random'"),
        (["--starts", "labels", "labels"], "'labels' is named twice"),
        (["--lr", "0"], "the learning rate must be above 0"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert federate(tmp_path / "run", teacher, *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def federation() -> Federation:
    tokenizer = tasks.embedded_tokenizer("polarity")
    task: Task = tasks.load("polarity", tokenizer, max_examples=200, reward_examples=40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.from_config(models.small_config(len(tokenizer), 2, layers=1, width=8, heads=2))()
    parts = [np.arange(10), np.arange(10, 40)]
    return Federation(task, np.arange(40, 80), parts, model, setting={"batch_size": 8, "lr": 1e-2})


def test_a_round_is_the_weighted_mean_of_what_the_clients_learn(federation: Federation) -> None:
    start = federation.weights_of(federation.model)
    learned = [federation.learn(k, start, steps=2, round_idx=1, costs=CostTracker()) for k in (0, 1)]
    after = federation.round(start, steps=2, round_idx=1, costs=(costs := CostTracker()))
    for name, value in after.items():
        expected = 0.25 * learned[0][name].double() + 0.75 * learned[1][name].double()
        torch.testing.assert_close(value.double(), expected, atol=1e-7, rtol=0)
    assert costs.steps == 4
    assert any(not torch.equal(value, start[name]) for name, value in after.items())
    assert all(torch.equal(value, federation.model.state_dict()[name]) for name, value in start.items())
    other = federation.learn(0, start, steps=2, round_idx=2, costs=CostTracker())
    assert any(not torch.equal(value, learned[0][name]) for name, value in other.items())


def test_equal_models_average_to_themselves(federation: Federation) -> None:
    start = federation.weights_of(federation.model)
    same = average([start] * 3, [1, 5, 2])
    assert all(torch.allclose(value, start[name], atol=1e-7) for name, value in same.items())
    assert all(value.dtype == start[name].dtype for name, value in same.items())
    with pytest.raises(InputError, match="cannot be averaged"):
        average([start], [0])


def test_distilling_the_starting_model_into_itself_changes_nothing(federation: Federation) -> None:
    start = federation.weights_of(federation.model)
    models_ = [start, start]
    federation.setting = {**federation.setting, "lr": 1e-4}
    after = federation.consolidate(models_, start, steps=1, alpha=1.0, tau=1.0, costs=CostTracker())
    batch = federation.task.dev["validation"]
    before, now = (federation.answers(one, batch, "report", CostTracker()) for one in (start, after))
    learned = federation.consolidate((), start, steps=1, alpha=1.0, tau=1.0, costs=CostTracker())
    labels = federation.answers(learned, batch, "report", CostTracker())
    assert np.abs(now - before).max() < np.abs(labels - before).max()


def test_what_is_reported_is_what_it_says() -> None:
    assert rounds_to([40.0, 60.0, 50.0, 70.0], 60) == 1
    assert rounds_to([40.0], 60) is None
    labels = np.array([0, 0, 1, 1, 2])
    before, after = np.array([0, 1, 1, 0, 2]), np.array([0, 0, 0, 0, 2])
    assert flips(before, after, labels) == (0.2, 0.2)
    # half of class 1 is right and all of class 2; class 3 is none of the labels'
    assert on_own_classes(before, labels, np.array([0, 0.5, 0.25, 0.25])) == pytest.approx((0.5 * 0.5 + 0.25) / 0.75)
    assert on_own_classes(before, labels, np.array([0, 0, 0, 1.0])) is None


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    vocabulary = len(tasks.embedded_tokenizer("polarity"))
    path.write_text(models.small_config(vocabulary, 2, layers=1, width=16, heads=2).to_json_string())
    return path


def test_mutual_learning_saves_the_student_that_stands_best(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mutual", "--task", "polarity", "--students", str(small), str(small), *DATA, "--steps", "24"]
    arguments += ["--checkpoint-seconds", "0"]
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    read = result(tmp_path / "whole")
    assert read["students"][read["chosen"] - 1]["dev_score"] == read["dev_score"]
    assert read["students"][read["chosen"] - 1]["reward_score"] == max(one["reward_score"] for one in read["students"])
    taken, step = 0, Distiller.step

    def counted(self: Distiller, *args: Any) -> Any:
        nonlocal taken
        if taken == 43:
            taken += 1
            raise KeyboardInterrupt
        taken += 1
        return step(self, *args)

    monkeypatch.setattr(Distiller, "step", counted)
    again = [*arguments, "--output", str(tmp_path / "run"), "--resume"]
    assert main(again) == 130
    taken = 100
    assert main(again) == 0
    assert taken == 108  # the last 4 steps of both
    assert result(tmp_path / "run") == read
    same = [tmp_path / name / "student" / "model.safetensors" for name in ("whole", "run")]
    assert same[0].read_bytes() == same[1].read_bytes()
    assert main(again) == 0
    assert "nothing is left to resume" in capsys.readouterr().out


def test_mutual_learning_refuses_what_cannot_work(
    tmp_path: Path, small: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*students: Path) -> str:
        arguments = ["mutual", "--task", "polarity", "--students", *map(str, students), *DATA]
        assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "1 student cannot learn from each other" in refused(small)
    assert "they would stay equal" in refused(teacher, teacher)
