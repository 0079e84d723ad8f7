"""Every agent and every policy by its name on the command line, and what they leave."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from ackd.agents import load
from ackd.agents.learner import LEARNERS, choice_of
from ackd.cli import main
from ackd.mdp.observations import SCHEMA
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "120", "--steps", "8", "--decision-interval", "2"]
SHORT += ["--reward-examples", "40", "--lr", "5e-4", "--batch-size", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    arguments = ["train", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--episodes", "4", "--students", "2"]
    assert main([*arguments, "--output", str(folder), "--policy-name", "mine"]) == 0
    return folder


@pytest.mark.parametrize("agent", [name for name in LEARNERS if name != "a2c"])
def test_every_agent_trains_and_its_policy_is_used(tmp_path: Path, teacher: Path, agent: str) -> None:
    pair = ["--task", "polarity", "--teacher", str(teacher), *SHORT]
    assert main(["train", *pair, "--agent", agent, "--episodes", "2", "--output", str(tmp_path / "train")]) == 0
    policy = load(tmp_path / "train" / "policy")
    assert policy.card.algorithm == agent
    assert policy.card.choice == choice_of(agent)
    assert policy.card.cost["student_steps"] == 16
    assert policy.card.cost["flops"] > 0
    arguments = ["distill", *pair, "--policy", str(tmp_path / "train"), "--output", str(tmp_path / "student")]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "student" / "ledger.json").read_text())["reward_passes"] == 0


def test_a_cohort_leaves_an_episode_a_student(trained: Path) -> None:
    with (trained / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["episode"] for row in rows} == {"0", "1", "2", "3", "4"}  # the last is the student that was distilled
    assert all(sum(row["episode"] == str(i) for row in rows) == 4 for i in range(5))
    card = load(trained / "policy").card
    assert card.name == "mine"
    assert card.cost["student_steps"] == 4 * 8
    assert json.loads((trained / "ledger.json").read_text())["steps"] == 3 * 8  # two cohorts and a student


def test_what_the_default_agent_leaves_is_loaded_replayed_and_guarded(
    tmp_path: Path, teacher: Path, trained: Path
) -> None:
    policy = load(trained / "policy")
    assert (policy.card.kind, policy.card.algorithm, policy.card.choice) == ("residual", "residual", "weights")
    for name in (str(trained), f"replay:{trained}", f"probe-rule:{trained}"):
        arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--policy", name]
        assert main([*arguments, "--output", str(tmp_path / "run"), "--overwrite"]) == 0
        with (tmp_path / "run" / "decisions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["decision"]) for row in rows] == [0, 1, 2, 3]
        assert all(0 <= float(row[f"select/{term}"]) <= 8 for row in rows for term in ("labels", "logits", "hidden"))
        assert json.loads((tmp_path / "run" / "result.json").read_text())["policy"] == name


def test_a_policy_of_an_old_schema_is_refused(
    tmp_path: Path, teacher: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "policy", tmp_path / "old")
    card = json.loads((tmp_path / "old" / "policy.json").read_text())
    (tmp_path / "old" / "policy.json").write_text(json.dumps(card | {"schema": SCHEMA - 1}))
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--policy", str(tmp_path / "old")]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"ackd: [^\n]*policy\.json[^\n]*schema is {SCHEMA - 1}[^\n]*\n", said)
    assert not (tmp_path / "run").exists()


def test_training_on_instances(tmp_path: Path, teacher: Path) -> None:
    file = tmp_path / "set.json"
    setting = {"max_examples": 120, "steps": 8, "decision_interval": 2, "batch_size": 8, "lr": 5e-4}
    instances = [
        {"name": "two", "split": "train", "seeds": [0, 9], "student_layers": 2},
        {"name": "one", "split": "train", "seeds": [0, 9], "student_layers": 1, "types": ["logits", "hidden"]}
        | {"steps": 12},  # as many decisions, of more phases
        {"name": "other", "split": "later", "seeds": [50, 9], "student_layers": 1},
    ]
    defaults = {"task": "polarity", "teacher": "polarity", **setting}
    content = {"format": 1, "name": "s", "description": "", "defaults": defaults, "instances": instances}
    file.write_text(json.dumps(content))
    arguments = ["train", "--instances", str(file), "--teachers", str(teacher.parent), "--episodes", "4"]
    assert main([*arguments, "--steps", "8", "--output", str(tmp_path / "run")]) == 0
    card = load(tmp_path / "run" / "policy").card
    assert [instance["name"] for instance in card.instances] == ["two", "one"]
    assert str(tmp_path) not in (tmp_path / "run" / "policy" / "policy.json").read_text()
    with (tmp_path / "run" / "decisions.csv").open() as file_:
        rows = list(csv.DictReader(file_))
    assert {(row["episode"], row["seed"]) for row in rows} == {("0", "0"), ("1", "0"), ("2", "1"), ("3", "1")}
    decisions = [[int(row["decision"]) for row in rows if row["episode"] == episode] for episode in "0123"]
    assert decisions == [[0, 1, 2, 3], [0, 0, 1, 2, 2, 3]] * 2


@pytest.mark.parametrize(
    ("agent", "changes", "sentence"),
    [
        ("ucb", {"types": ["hidden", "logits"]}, "hidden, attention in instance 'one' and hidden, logits in 'two'"),
        ("ksm", {"types": ["logits", "attention"]}, "ksm knows knowledge types by their places"),
        ("a2c", {"types": ["hidden", "logits"], "steps": 5}, "2 decisions in instance 'one' and 3 in 'two'"),
        ("exp3", {"decision_interval": 1}, "with --split"),
        ("pbt", {}, "pbt compares students in one setting, and there are 2"),
        ("best-schedule", {}, "leave --instances away"),
    ],
)
def test_instances_that_an_agent_would_mix_up_are_refused(
    tmp_path: Path, agent: str, changes: dict[str, object], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t").mkdir()
    defaults = {"task": "polarity", "teacher": "t", "student_layers": 1}
    rows = [{"name": name, "split": "train", "seeds": [0, 9]} for name in ("one", "two")]
    content = {"format": 1, "defaults": defaults, "instances": [rows[0], rows[1] | changes]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    arguments = ["train", "--instances", str(tmp_path / "set.json"), "--agent", agent, "--steps", "4"]
    assert main([*arguments, "--decision-interval", "2", "--output", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_bandit_learns_where_some_instances_lack_the_last_types(tmp_path: Path, teacher: Path) -> None:
    rows: list[dict[str, object]] = [{"name": name, "split": "train", "seeds": [0, 9]} for name in ("one", "two")]
    rows[1]["types"] = ["logits"]
    defaults = {"task": "polarity", "teacher": "polarity", "student_layers": 1, "max_examples": 400, "batch_size": 8}
    (tmp_path / "set.json").write_text(json.dumps({"format": 1, "defaults": defaults, "instances": rows}))
    arguments = ["train", "--instances", str(tmp_path / "set.json"), "--teachers", str(teacher.parent)]
    arguments += ["--agent", "ucb", "--steps", "4", "--decision-interval", "2", "--episodes", "4"]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    assert load(tmp_path / "run" / "policy").card.knowledge == ("logits", "hidden", "attention")


def test_refining_leaves_a_policy(
    tmp_path: Path, teacher: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--task", "polarity", "--teacher", str(teacher), *SHORT]
    arguments = ["distill", *pair, "--policy", str(trained), "--refine", "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert "refined over 0 phases, which told nothing" in capsys.readouterr().out
    card = load(tmp_path / "run" / "policy").card
    assert card.name == "mine"
    assert "fallen_back" in card.metrics
    costs = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert (
        0 < costs["reward_passes"] <= 1
    )  # a fifth of the split at the start and at the end; more is not worth it here
    assert json.loads((tmp_path / "run" / "result.json").read_text())["reward"] is not None


def test_everything_can_be_evaluated(
    tmp_path: Path, teacher: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = ["labels", "all", "ucb", "thompson", "exp3", "lookahead", "best-static", "uncertain-hidden"]
    policies += ["uncertainty-weights", "falling", str(trained), f"{trained}:refine"]
    arguments = ["evaluate", "--tasks", "polarity", "--teachers", str(teacher), *SHORT, "--steps", "4", "--seeds", "2"]
    arguments += ["--search-tries", "3", "--policies", *policies, "--output", str(tmp_path / "table")]
    assert main(last_said(arguments)) == 0
    cells = json.loads((tmp_path / "table" / "result.json").read_text())["cells"]
    assert [cell["policy"] for cell in cells] == [name for name in policies for _ in range(2)]
    assert {cell["policy"] for cell in cells if cell["reward"] is None} == {f"{trained}:refine"}
    steps = {cell["policy"]: cell["search_steps"] for cell in cells}
    assert steps["best-static"] == 3 * 4
    assert steps["lookahead"] == 2 * 8 * 2  # 2 decisions, 8 subsets, 2 steps a probe
    assert steps["ucb"] == 0
    printed = capsys.readouterr().out
    assert "| policy | score | points above all | beats all | gap closed |" in printed
    assert "learning took 8.0 runs of 4 steps" in printed
    assert main(["report", str(tmp_path / "table")]) == 0


def test_a_policy_that_knows_types_by_place_is_not_used_for_others(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--task", "polarity", "--teacher", str(teacher), *SHORT]
    assert main(["train", *pair, "--agent", "ucb", "--episodes", "2", "--output", str(tmp_path / "train")]) == 0
    arguments = ["distill", *pair, "--knowledge", "hidden", "logits", "--policy", str(tmp_path / "train")]
    assert main([*arguments, "--output", str(tmp_path / "student")]) == 2
    assert "by their places, logits, hidden, attention, and here they are hidden, logits" in capsys.readouterr().err


def test_the_default_policy_comes_along(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--task", "polarity", "--teacher", str(teacher), *SHORT]
    assert main(["distill", *pair, "--policy", "default", "--output", str(tmp_path / "run")]) == 0
    assert main(["policies", "show", "default"]) == 0
    assert "default" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train --task polarity --student-layers 2", "has no teacher"),
        ("train --student-layers 2", "say what to learn on"),
        ("train --task polarity --teacher T --instances embedded-v1", "and not both"),
        ("train --instances none.json", "none.json"),
        ("train --task polarity --teacher T --student-layers 2 --episodes 5 --students 2", "give 6 episodes"),
        ("train --task polarity --teacher T --agent ksm --episodes 8 --students 8", "leave --students away"),
        ("train --instances embedded-v1 --episodes 8 --students 8 --order sampled", "leave --order or --students away"),
        ("train --task polarity --teacher T --agent pbt --workers 2", "leave --workers and --backend away"),
        ("train --task polarity --teacher T --agent pbt --episodes 1", "give --episodes 2 or more"),
        ("train --task polarity --teacher T --student-layers 2 --policy-name ../x", "../x"),
        ("train --task polarity --teacher T --student-layers 2 --agent dqn", "dqn"),
        ("train --task polarity --teacher T --student-layers 2 --checkpoint-seconds -1", "give 0 or more"),
        ("distill --task polarity --teacher T --student-layers 2 --refine", "is a rule, which has nothing to refine"),
        ("distill --task polarity --teacher T --student-layers 2 --policy nobody", "nobody"),
        ("evaluate --tasks polarity --teachers T --student-layers 2 --search-tries 0", "--search-tries is 0"),
    ],
)
def test_bad_input(
    tmp_path: Path, teacher: Path, arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(teacher) if word == "T" else word for word in arguments.split()]
    assert main([*words, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
