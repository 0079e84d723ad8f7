"""Learned teacher weights and the knowledge selector by their names on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ackd.agents.store import load
from ackd.cli import main

SHORT = ["--student-layers", "2", "--max-examples", "300", "--steps", "8", "--decision-interval", "4"]
SHORT += ["--lr", "5e-4", "--batch-size", "8", "--task", "polarity", "--reward-examples", "40"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rl-kd", ["reward=3", "gamma=0.5", "every=2", "empty=all", "warmup=0.25"]),
        ("mtkd-rl", ["warmup=0.25"]),
        ("rl-kd,label-revision", ["warmup=0.25"]),  # weights of teachers whose answers are revised
    ],
)
def test_learned_weights_run_by_name(tmp_path: Path, teacher: Path, name: str, options: list[str]) -> None:
    run = tmp_path / "run"
    arguments = ["distill", *SHORT, "--teacher", str(teacher), str(teacher), "--preset", name, "--options", *options]
    assert main([*arguments, "--output", str(run)]) == 0
    assert json.loads((run / "result.json").read_text())["policy"] == name
    learned = load_file(run / "student" / "weighting.safetensors")
    assert learned["mean_weights"].shape == (2,)
    assert 0 < learned["mean_weights"].sum() < 1.001
    assert any(key.startswith("network.") for key in learned)
    assert json.loads((run / "ledger.json").read_text())["reward_passes"] == 0


def test_the_selector_is_learned_and_used_by_name(tmp_path: Path, teacher: Path) -> None:
    pair = [*SHORT, "--teacher", str(teacher), "--preset", "ksm"]
    settings = ["--agent-options", "phase=2", "hard=yes", "--reward", "gap+explore-hard"]
    assert main(["train", *pair, "--episodes", "2", *settings, "--output", str(tmp_path / "train")]) == 0
    card = load(tmp_path / "train" / "policy").card
    assert (card.algorithm, card.kind, card.choice) == ("ksm", "ksm-bits", "type-subset")
    assert card.knowledge == ("logits", "hidden", "fsp")
    for policy in (str(tmp_path / "train"), "random", "random-weights"):
        output = tmp_path / Path(policy).name.replace("train", "student")
        assert main(["distill", *pair, "--policy", policy, "--output", str(output)]) == 0
    assert not (tmp_path / "student" / "student" / "weighting.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("distill --preset rl-kd", "takes at least 2 teachers, and 1 was named"),
        ("distill --preset rl-kd --teacher T T --options reward=4", "there is no reward 4"),
        ("distill --preset rl-kd --teacher T T --policy all", "says what is transferred when"),
        (
            "distill --preset mtkd-rl --teacher T T --options gamma=1",
            "'gamma' is no option of the preset 'mtkd-rl', but of rl-kd",
        ),
        ("distill --preset ksm", "`ackd train --preset ksm`"),
        ("distill --preset ksm --knowledge logits", "leave logits away"),
        ("train --preset kd", "leaves an agent nothing to learn"),
        ("train --preset ksm --agent-options phases=2", "did you mean 'phase'"),
        ("train --preset ksm --agent-options phase=0", "phase is 0: give at least 1"),
        ("train --agent ppo --agent-options phase=2", "the agent ppo has no option phase"),
        ("train --preset ksm --students 2", "leave --students away"),
    ],
)
def test_what_cannot_work_gets_one_sentence(
    tmp_path: Path, teacher: Path, arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *words = [str(teacher) if word == "T" else word for word in arguments.split()]
    named = [] if "--teacher" in words else ["--teacher", str(teacher)]
    assert main([command, *SHORT, *named, *words, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_they_are_listed_with_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert "ackd mutual" in listed.splitlines()[-1]  # how a method that is no preset is called
    for name, year in (("rl-kd", 2021), ("mtkd-rl", 2025), ("ksm", 2022)):
        assert any(line.split()[:2] == [name, str(year)] for line in listed.splitlines())
        assert main(["presets", name]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"^ +unknown +(?!none$)", shown, re.MULTILINE)
