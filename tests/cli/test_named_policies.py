"""Policies of an evaluation that are called by names of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ackd.agents.schedule import Schedule
from ackd.agents.store import save
from ackd.cli import main
from ackd.experiments.policies import called

SHORT = ["--student-layers", "2", "--max-examples", "200", "--reward-examples", "40", "--steps", "8"]
SHORT += ["--decision-interval", "2", "--lr", "5e-4", "--batch-size", "8", "--knowledge", "logits", "hidden"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "learned"
    schedule = Schedule.of({"labels": [0.25, 4.0], "logits": [0.0, 1.0], "hidden": [2.0, 1.0]})
    save(folder, schedule, name="learned", algorithm="cem", knowledge=("logits", "hidden"), k_max=8)
    return folder


def evaluate(folder: Path, teacher: Path, *policies: str, more: tuple[str, ...] = ()) -> int:
    arguments = ["evaluate", "--tasks", "polarity", "--teachers", str(teacher), *SHORT, "--seeds", "1", *more]
    return main([*arguments, "--policies", *policies, "--output", str(folder)])


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "result.json").read_text())["cells"]
    return {one["policy"]: {name: value for name, value in one.items() if name != "seconds"} for one in found}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("agent=runs/a/policy", ("agent", "runs/a/policy")),
        ("agent=preset:kd:tau=2", ("agent", "preset:kd:tau=2")),
        ("light.2_x-y=all,labels:0.25", ("light.2_x-y", "all,labels:0.25")),
        ("preset:dynamickd-data:keep=0.1", ("preset:dynamickd-data:keep=0.1",) * 2),
        ("runs/lr=1/policy", ("runs/lr=1/policy",) * 2),
        ("./lr=1", ("./lr=1",) * 2),
        ("labels", ("labels",) * 2),
    ],
)
def test_a_name_stands_before_the_first_sign(given: str, parts: tuple[str, str]) -> None:
    assert called(given) == parts


def test_a_name_is_what_everything_calls_the_policy(
    tmp_path: Path, teacher: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table"
    given = [
        f"agent={policy}",
        str(policy),
        "soft=all,labels:0.25",
        "all,labels:0.25",
        "kd=preset:kd",
        "best=best-static",
    ]
    assert evaluate(table, teacher, *given, more=("--search-tries", "2")) == 0
    said = capsys.readouterr().out
    assert f"policy:  agent is {policy}\n" in said
    found = cells(table)
    assert list(found) == ["agent", str(policy), "soft", "all,labels:0.25", "kd", "best"]
    for name, same in (("agent", str(policy)), ("soft", "all,labels:0.25")):
        assert found[name] | {"policy": same} == found[same]
    assert found["best"]["search_steps"] == 2 * 8
    with (table / "table.csv").open() as file:
        assert [row["policy"] for row in csv.DictReader(file)] == list(found)
    assert "| polarity | agent | accuracy |" in (table / "table.md").read_text()
    folders = {path.name for path in (table / "polarity").iterdir()}
    assert {"agent", "soft", "kd", "best"} < folders
    assert main(["report", str(table)]) == 0
    assert "<td>agent</td>" in (table / "report.html").read_text()
    assert "by progress for agent, " in (table / "report.html").read_text()


def test_a_named_policy_is_resumed_and_not_trained_again(
    tmp_path: Path, teacher: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table"
    assert evaluate(table, teacher, f"agent={policy}") == 0
    before = cells(table)

    from ackd.training.distiller import Distiller

    steps = []
    step = Distiller.step
    monkeypatch.setattr(Distiller, "step", lambda self, *args: steps.append(1) or step(self, *args))  # type: ignore[func-returns-value]
    assert evaluate(table, teacher, f"agent={policy}", "light=hidden,labels:0.25", more=("--resume",)) == 0
    assert len(steps) == 8  # of the new one
    assert cells(table)["agent"] == before["agent"]


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        (("Agent=all",), "'Agent' cannot be a policy's name"),
        (("=all",), "'' cannot be a policy's name"),
        (("..=all",), "'..' cannot be a policy's name"),
        (("labels=all",), "calls a policy labels, which is what another does"),
        (("random=all",), "calls a policy random"),
        (("hidden=all",), "calls a policy hidden"),
        (("best-static=all",), "calls a policy best-static"),
        (("agent=",), "names no policy: write NAME=POLICY"),
        (("agent=all", "agent=labels"), "the policy 'agent' is named twice"),
        (("agent=all", "agent.=labels"), "'agent' and 'agent.' would share a folder"),
        (("agent=nonsense",), "nonsense"),
        (("agent=b=all",), "b=all"),
    ],
)
def test_a_name_that_cannot_be_is_told(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], policies: tuple[str, ...], words: str
) -> None:
    assert evaluate(tmp_path / "table", teacher, *policies) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "table").exists()
