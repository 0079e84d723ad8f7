"""Published methods in the table of an evaluation, beside policies and at equal cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ackd.cli import main
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "200", "--reward-examples", "40", "--steps", "8"]
SHORT += ["--decision-interval", "2", "--lr", "5e-4", "--batch-size", "8"]
KEPT = "preset:dynamickd-data:keep=0.5:score=entropy"


def evaluate(folder: Path, teacher: Path | str, *more: str) -> int:
    words = ["evaluate", "--tasks", "polarity", "--teachers", str(teacher), *SHORT, *more, "--output", str(folder)]
    return main(last_said(words))


def cells(folder: Path) -> dict[str, list[dict[str, Any]]]:
    by: dict[str, list[dict[str, Any]]] = {}
    for cell in json.loads((folder / "result.json").read_text())["cells"]:
        by.setdefault(cell["policy"], []).append(cell)
    return by


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("presets") / "table"
    policies = ["labels", "all", "preset:kd:tau=2", KEPT, "preset:minilmv2"]
    assert evaluate(folder, teacher, "--policies", *policies, "--seeds", "2", "--knowledge", "logits", "hidden") == 0
    return folder


def test_a_method_is_what_distill_makes_of_it(table: Path, tmp_path: Path, teacher: Path) -> None:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--seed", "1001"]
    for policy, more in {
        "preset:kd:tau=2": ["--preset", "kd", "--options", "tau=2"],
        KEPT: ["--preset", "dynamickd-data", "--keep", "0.5", "--score", "entropy"],
    }.items():
        folder = tmp_path / more[1]
        assert main([*arguments, *more, "--output", str(folder)]) == 0
        one = json.loads((folder / "result.json").read_text())
        assert one["dev_score"] == cells(table)[policy][1]["dev_score"]


def test_several_teachers_of_a_task(tmp_path: Path, teacher: Path) -> None:
    pair = [str(teacher), str(shutil.copytree(teacher, tmp_path / "second"))]
    policies = ["all", "logits@2", "preset:dynamickd-teacher"]
    assert evaluate(tmp_path / "table", ",".join(pair), "--policies", *policies, "--seeds", "1") == 0
    found = {name: one["dev_score"] for name, (one,) in cells(tmp_path / "table").items()}
    arguments = ["distill", "--task", "polarity", "--teacher", *pair, *SHORT, "--seed", "1000"]
    for policy, more in {"logits@2": ["--policy", "logits@2"], policies[2]: ["--preset", "dynamickd-teacher"]}.items():
        assert main([*arguments, *more, "--output", str(tmp_path / "one" / more[1])]) == 0
        assert json.loads((tmp_path / "one" / more[1] / "result.json").read_text())["dev_score"] == found[policy]


def test_shares_of_flops_are_of_one_whole(table: Path) -> None:
    share = {name: those[0]["flops_share"] for name, those in cells(table).items()}
    assert share["all"] == 1
    # logits alone against logits and hidden states: all but the projections' products
    assert share["labels"] < share[KEPT] < share["preset:kd:tau=2"] <= 1.001
    # of F_S for the student and F_T for the teacher, a step is 3 F_S + F_T, and 3 F_S + F_T / 2 of a half
    labels, kd = share["labels"], share["preset:kd:tau=2"]
    assert share[KEPT] == pytest.approx((labels + kd) / 2, rel=0.05)
    assert {cell["reward"] for cell in cells(table)["preset:minilmv2"]} == {None}
    assert None not in {cell["reward"] for cell in cells(table)["all"]}


def test_a_budget_is_one_for_policies_and_methods(tmp_path: Path, teacher: Path) -> None:
    policies = ["labels", "all", "preset:kd:tau=2", KEPT, "preset:minilmv2"]
    options = ["--seeds", "1", "--knowledge", "logits", "hidden", "--steps", "40", "--flops-budget", "0.8"]
    assert evaluate(tmp_path / "table", teacher, "--policies", *policies, *options) == 0
    share = {name: one["flops_share"] for name, (one,) in cells(tmp_path / "table").items()}
    for name in ("all", "preset:kd:tau=2", "preset:minilmv2"):
        assert share[name] == pytest.approx(0.8, rel=0.02)
    assert share["labels"] < share[KEPT] < 0.8
    assert main(["report", str(tmp_path / "table")]) == 0
    text = (tmp_path / "table" / "table.md").read_text()
    assert "The Pareto front, cheapest first" in text
    assert "| polarity | labels" in text


def test_what_a_method_does_is_recorded_and_drawn(table: Path) -> None:
    header = (table / "polarity" / "preset_minilmv2" / "decisions.csv").read_text().splitlines()[0]
    assert "select/qkv" in header.split(",")
    assert main(["report", str(table)]) == 0
    assert "preset:minilmv2" in (table / "report.html").read_text()


def test_a_table_grows_by_a_method(table: Path, teacher: Path) -> None:
    before = cells(table)
    policies = ["labels", "all", "preset:kd:tau=2", KEPT, "preset:minilmv2"]
    options = ["--seeds", "2", "--knowledge", "logits", "hidden", "--resume"]
    assert evaluate(table, teacher, "--policies", *policies, "preset:swap", *options) == 0
    after = cells(table)
    assert len(after["preset:swap"]) == 2
    for name, those in before.items():
        assert [cell["dev_score"] for cell in after[name]] == [cell["dev_score"] for cell in those]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("preset:kdd", "kdd"),
        ("preset:kd:tua=2", "did you mean"),
        ("preset:kd:tau", "write it as NAME=VALUE"),
        ("preset:kd:tau=hot", "the option tau is a number"),
        ("preset:ksm", "leaves open what is transferred when"),
        ("preset:dynamickd-teacher", "takes 2 teachers, and 1 was named"),
        ("preset:kd,minilm", "both say which losses there are"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], policy: str, words: str
) -> None:
    assert evaluate(tmp_path / "run", teacher, "--policies", "all", policy) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("share", "words"),
    [("nan", "--flops-budget is 'nan'"), ("1.5", "at most 1"), ("0.3", "labels alone take 0.")],
)
def test_a_budget_that_cannot_be_is_told(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], share: str, words: str
) -> None:
    assert evaluate(tmp_path / "run", teacher, "--policies", "all", "--flops-budget", share) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
