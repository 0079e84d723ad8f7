"""The commands as a user types them, on a generated task; and one clear sentence for each kind of bad input."""

from __future__ import annotations

import csv
import gc
import json
import logging
import pickle
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ackd import models, tasks
from ackd.agents import store
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import Schedule
from ackd.agents.set_network import SetNetwork
from ackd.cli import main
from ackd.envs.make import tiny
from ackd.experiments import progress
from ackd.mdp.observations import FEATURES, GLOBALS
from ackd.runs.stopping import Stopped, stoppable
from tests.words import last_said

SHORT = ["--student-layers", "2", "--max-examples", "120", "--steps", "8", "--decision-interval", "2"]
SHORT += ["--reward-examples", "40", "--lr", "5e-4", "--batch-size", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    arguments = ["train", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--episodes", "4"]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder


def read(path: Path) -> dict[str, object]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_finetune_leaves_a_teacher(teacher: Path) -> None:
    result = read(teacher / "result.json")
    assert result["task"] == "polarity"
    assert result["metric"] == "accuracy"
    assert isinstance(result["dev_score"], float)
    model = models.load_model(teacher)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert models.load_tokenizer(teacher).get_vocab() == tasks.embedded_tokenizer("polarity").get_vocab()


@pytest.mark.parametrize("policy", ["labels", "all", "scheduled", "logits+hidden"])
def test_distill_leaves_a_run(tmp_path: Path, teacher: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), "--policy", policy, *SHORT]
    assert main([*arguments, "--output", str(folder)]) == 0
    result = read(folder / "result.json")
    for name in ("task", "metric", "dev_score", "teacher_score", "policy", "seed", "steps", "seconds"):
        assert result[name] is not None, name
    assert result["steps"] == 8
    assert result["policy"] == policy
    with (folder / "decisions.csv").open() as file:
        selections = [row["selection"] for row in csv.DictReader(file)]
    early, late = {
        "labels": ("labels", "labels"),
        "all": ("logits+hidden+attention",) * 2,
        "scheduled": ("hidden+attention", "logits"),
        "logits+hidden": ("logits+hidden",) * 2,
    }[policy]
    assert selections == [early, early, late, late]
    costs = read(folder / "ledger.json")
    assert (costs["teacher_queries"] == 0) == (policy == "labels")
    student = models.load_model(folder)
    assert models.shape_of(student).layers == 2
    assert "tensorboard --logdir" in capsys.readouterr().out
    # the student may be a teacher in its turn: its folder is a model like any other
    assert models.load_tokenizer(folder).get_vocab()


def test_curves_go_where_they_are_asked_for(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ackd.runs.trackers.find_spec", lambda name: None)
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--output", str(tmp_path / "run")]
    assert main([*arguments, "--report-to", "tensorboard", "wandb"]) == 2
    said = "ackd: --report-to wandb needs the package wandb, which is not installed: pip install wandb\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--report-to", "none"]) == 0
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (tmp_path / "run" / "decisions.csv").stat().st_size > 0
    assert "tensorboard" not in capsys.readouterr().out
    assert main([*arguments, "--resume"]) == 0  # another tracker is no other run


def test_the_same_command_gives_the_same_student(tmp_path: Path, teacher: Path) -> None:
    weights = []
    for name in ("one", "other"):
        arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), "--policy", "random", *SHORT]
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
        weights.append(load_file(tmp_path / name / "student" / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_narrower_student_keeps_its_projections_apart(tmp_path: Path, teacher: Path) -> None:
    config = tmp_path / "narrow.json"
    vocabulary = len(tasks.embedded_tokenizer("polarity"))
    config.write_text(models.small_config(vocabulary, 2, layers=2, width=32, heads=4).to_json_string())
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), "--student", str(config), *SHORT[2:]]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    projections = load_file(tmp_path / "run" / "student" / "projections.safetensors")
    assert {name: tuple(value.shape) for name, value in projections.items()} == {
        "hidden.projection.weight": (64, 32),
        "hidden.projection.bias": (64,),
    }


def distilled(folder: Path, teacher: Path, *more: str) -> dict[str, Any]:
    """The ledger of a run with these options."""
    arguments = last_said(["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, *more])
    assert main([*arguments, "--output", str(folder)]) == 0
    assert models.shape_of(models.load_model(folder)).layers == 2
    costs: dict[str, Any] = read(folder / "ledger.json")
    assert set(costs["bytes"]) == set(costs["flops"]) == set(costs["seconds"])
    return costs


def test_what_a_policy_decides_with_is_counted(tmp_path: Path, teacher: Path) -> None:
    """By torch's own counter: once a decision; where weights are adapted in the run, the policy acts twice."""
    env = tiny()
    observation, _ = env.reset(seed=0)
    counted = []
    for name, network in (
        ("bits", SetNetwork(len(GLOBALS), len(FEATURES))),
        ("weights", ResidualNetwork(len(GLOBALS), len(FEATURES))),
    ):
        store.save(tmp_path / name, network, algorithm="none", knowledge=env.knowledge, k_max=env.signals.k_max)
        policy = store.load(tmp_path / name)
        with FlopCounterMode(display=False) as counter:
            policy.predict(observation, deterministic=True)
        counted.append(counter.get_total_flops())
    spent = [
        distilled(tmp_path / f"run-{i}", teacher, "--policy", *chosen)["flops"]["agent"]
        for i, chosen in enumerate(([str(tmp_path / "bits")], [str(tmp_path / "weights"), "--refine"], ["all"]))
    ]
    interpolation = Schedule().flops(env.signals.k_max)  # no matrix product, so torch does not count it
    assert spent == [4 * counted[0], 4 * 2 * (counted[1] + interpolation), 0]


def selections(folder: Path) -> list[str]:
    with (folder / "decisions.csv").open() as file:
        return [row["selection"] for row in csv.DictReader(file)]


def test_a_preset_runs_through_its_stages(tmp_path: Path, teacher: Path) -> None:
    steps = ["--steps", "13", "--decision-interval", "2"]
    costs = distilled(tmp_path / "run", teacher, "--preset", "tinybert", *steps)
    assert selections(tmp_path / "run") == ["hidden+attention"] * 5 + ["logits-soft-ce"] * 2
    assert read(tmp_path / "run" / "result.json")["policy"] == "tinybert"
    assert costs["teacher_queries"] == 13 * 8
    assert costs["cached_queries"] == costs["bytes"]["cache"] == 0
    assert costs["bytes"]["teacher"] > 0


def test_batches_accumulate(tmp_path: Path, teacher: Path) -> None:
    costs = distilled(tmp_path / "run", teacher, "--accumulate", "2", "--layer-map", "0:1,1:3", "--precision", "bf16")
    assert costs["steps"] == 8
    assert costs["teacher_queries"] == 2 * 8 * 8


def test_a_cache_is_filled_by_one_run_and_read_by_the_next(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache", str(tmp_path / "cache"), "--policy", "logits+hidden", "--steps", "50"]
    first = distilled(tmp_path / "first", teacher, *cache)
    second = distilled(tmp_path / "second", teacher, *cache)
    assert first["teacher_queries"] + first["cached_queries"] == second["cached_queries"] == 50 * 8
    assert second["teacher_queries"] == second["bytes"]["teacher"] == 0
    assert second["bytes"]["cache"] > 0
    assert "to keep" in capsys.readouterr().err
    results = [read(tmp_path / name / "result.json") for name in ("first", "second")]
    assert results[0]["reward"] == results[1]["reward"]
    assert results[0]["flops_share"] == results[1]["flops_share"]


def test_several_teachers_teach_side_by_side(tmp_path: Path, teacher: Path) -> None:
    folder = tmp_path / "run"
    both = ["--teacher", str(teacher), str(teacher), "--teacher-weights", "1", "0.5", "--policy", "logits@1+logits@2"]
    arguments = ["distill", "--task", "polarity", *both, "--knowledge", "logits", *SHORT, "--output", str(folder)]
    assert main(arguments) == 0
    assert selections(folder) == ["logits@1+logits@2"] * 4
    assert read(folder / "ledger.json")["teacher_queries"] == 2 * 8 * 8


@pytest.mark.parametrize("given", [["--policy", "all"], ["--preset", "minilm"]])
def test_a_teacher_of_nan_ends_the_run_with_the_examples(
    tmp_path: Path, teacher: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.load_model(teacher)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias.fill_(torch.nan)
    models.save_model(tmp_path / "broken", model, models.load_tokenizer(teacher))
    arguments = ["distill", "--task", "polarity", "--teacher", str(tmp_path / "broken"), *SHORT, *given]
    config = small_config(tmp_path / "student.json", width=64, heads=4)
    arguments = with_change(arguments, student_layers=None, student=config)
    capsys.readouterr()
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"^ackd: the teacher answers NaN or infinity \(\w+\) for the examples \d+, \d+", said)
    assert not (tmp_path / "run" / "student").exists()


def test_train_leaves_curves_and_a_policy(trained: Path) -> None:
    assert {"policy.json", "policy.safetensors", "README.md"} == {path.name for path in (trained / "policy").iterdir()}
    card = read(trained / "policy" / "policy.json")
    assert card["instances"][0]["task"] == "polarity"  # type: ignore[index]
    assert card["algorithm"] == "residual"
    assert card["metrics"]["episodes"] == 4  # type: ignore[index]
    assert str(trained.parent) not in json.dumps(card)  # no path of this machine travels with it
    assert [path.name for path in (trained / "checkpoint").iterdir()] == ["journal.jsonl"]
    search = EventAccumulator(str(trained / "tensorboard"))
    search.Reload()
    assert search.Scalars("train/schedule/labels/knot_0")
    # so few students leave none to learn corrections from
    assert not [tag for tag in search.Tags()["scalars"] if tag.startswith(("rollout/", "time/"))]
    with (trained / "decisions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == (4 + 1) * 4  # the learned policy's own episode comes last
    assert read(trained / "result.json")["episodes"] == 4
    assert read(trained / "ledger.json")["flops"]["agent"] > 0  # type: ignore[index]


def test_a_policy_is_used_on_another_task(tmp_path: Path, trained: Path) -> None:
    other = tmp_path / "teacher"
    assert main(f"finetune --task tally --max-examples 600 --epochs 0.5 --output {other}".split()) == 0
    arguments = [
        "evaluate",
        "--tasks",
        "tally",
        "--teachers",
        str(other),
        *SHORT,
        "--knowledge",
        "hidden",
        "logits",
    ]
    policies = ["--policies", "labels", "all", str(trained / "policy"), "--seeds", "2"]
    assert main([*arguments, *policies, "--output", str(tmp_path / "table")]) == 0
    with (tmp_path / "table" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["1000", "1001"] * 3
    assert {row["teacher_score"] for row in rows} == {rows[0]["teacher_score"]}
    assert [row["flops_share"] for row in rows if row["policy"] == "all"] == ["1.0", "1.0"]
    table = (tmp_path / "table" / "table.md").read_text()
    assert table.count("| tally |") == 3 + 1  # a row a policy, and which no other beats
    mean = (float(rows[0]["dev_score"]) + float(rows[1]["dev_score"])) / 2
    assert f"| tally | labels | accuracy | {mean:.2f} (" in table


def test_a_diverged_run_says_so(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--lr", "1e30"]
    arguments = last_said(arguments)
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 1
    assert "diverged" in capsys.readouterr().err
    result = read(tmp_path / "run" / "result.json")
    assert result["error"] == "divergence"
    assert result["dev_score"] is None
    assert not (tmp_path / "run" / "student").exists()


def test_divergence_does_not_crash_an_agents_training(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--lr", "1e30", "--episodes", "2"]
    arguments = last_said(arguments)
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 1
    assert "diverged" in capsys.readouterr().err
    with (tmp_path / "run" / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors = [row for row in rows if row["error"] == "divergence"]
    assert len(errors) >= 3  # each of the agent's episodes, and the last one
    returns: dict[str, float] = {}
    for row in rows:
        returns[row["episode"]] = returns.get(row["episode"], 0.0) + float(row["reward"])
    finished = {row["episode"] for row in errors}
    assert all(value == pytest.approx(-1.0) for episode, value in returns.items() if episode in finished)
    assert (tmp_path / "run" / "policy" / "policy.json").is_file()


def with_change(arguments: list[str], **changes: str | None) -> list[str]:
    """The arguments with some options replaced, or taken away."""
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    for name, value in changes.items():
        options["--" + name.replace("_", "-")] = value  # type: ignore[assignment]
    return [arguments[0], *(part for pair in options.items() if pair[1] is not None for part in pair)]


def write_csv(folder: Path, labels: str) -> str:
    path = folder / "own.csv"
    path.write_text("text,label\n" + "".join(f"some words here,{label}\n" for label in labels))
    return str(path)


def zipped_policy(folder: Path) -> str:
    path = folder / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    return str(path)


def pickled_policy(folder: Path, trained: Path) -> str:
    shutil.copytree(trained / "policy", folder / "pickled")
    (folder / "pickled" / "policy.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))
    return str(folder / "pickled")


def truncated_policy(folder: Path, trained: Path) -> str:
    shutil.copytree(trained / "policy", folder / "cut")
    weights = folder / "cut" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    return str(folder / "cut")


def other_schema(folder: Path, trained: Path) -> str:
    shutil.copytree(trained / "policy", folder / "schema")
    path = folder / "schema" / "policy.json"
    path.write_text(json.dumps({**read(path), "schema": 99}))
    return str(folder / "schema")


def deberta(folder: Path) -> str:
    from transformers import DebertaV2Config

    tokenizer = tasks.embedded_tokenizer("polarity")
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    models.from_config(config)().save_pretrained(folder / "deberta")
    tokenizer.save_pretrained(folder / "deberta")
    return str(folder / "deberta")


def other_tokenizer(folder: Path, teacher: Path) -> str:
    shutil.copytree(teacher / "model", folder / "other")
    path = folder / "other" / "tokenizer.json"
    content = json.loads(path.read_text())
    words = list(content["model"]["vocab"])
    content["model"]["vocab"][words[-1]], content["model"]["vocab"][words[-2]] = len(words) - 2, len(words) - 1
    path.write_text(json.dumps(content))
    return str(folder / "other")


def small_config(path: Path, *, width: int, heads: int) -> str:
    vocabulary = len(tasks.embedded_tokenizer("polarity"))
    path.write_text(models.small_config(vocabulary, 2, layers=2, width=width, heads=heads).to_json_string())
    return str(path)


def other_heads(folder: Path) -> str:
    return small_config(folder / "heads.json", width=128, heads=2)


def regression_teacher(folder: Path) -> str:
    tokenizer = tasks.embedded_tokenizer("polarity")
    models.from_config(models.small_config(len(tokenizer), 3, layers=2, width=16))().save_pretrained(folder / "three")
    tokenizer.save_pretrained(folder / "three")
    return str(folder / "three")


Changes = Callable[[Path, Path, Path], dict[str, str | None]]
BAD: dict[str, tuple[Changes, str]] = {
    "unknown task": (lambda p, t, r: {"task": "polarty"}, "unknown task 'polarty': did you mean 'polarity'?"),
    "unknown policy": (lambda p, t, r: {"policy": "schedule"}, "'schedule': did you mean 'scheduled'?"),
    "unknown type in a policy": (lambda p, t, r: {"policy": "logits+hiden"}, "'hiden': did you mean 'hidden'?"),
    "unknown knowledge": (lambda p, t, r: {"knowledge": "logit"}, "'logit': did you mean 'logits' or"),
    "missing data folder": (lambda p, t, r: {"task": "sst2", "data": str(p / "nowhere")}, "nowhere"),
    "no network, no data": (lambda p, t, r: {"task": "sst2"}, "--data"),
    "missing column": (
        lambda p, t, r: {"data": write_csv(p, "01" * 300), "text_columns": "txt", "label_column": "label"}, "txt",
    ),
    "labels outside the teacher's classes": (
        lambda p, t, r: {"data": write_csv(p, "ab" * 300), "text_columns": "text", "label_column": "label"},
        "'a' of polarity is outside the teacher's classes (negative, positive)",
    ),
    "other number of labels": (lambda p, t, r: {"teacher": regression_teacher(p)}, "has 3 outputs, but polarity is 2"),
    "missing teacher": (lambda p, t, r: {"teacher": str(p / "none")}, "there is no folder"),
    "other tokenizer": (
        lambda p, t, r: {"student": other_tokenizer(p, t), "student_layers": None}, "has a tokenizer of its own",
    ),
    "layer map": (lambda p, t, r: {"layer_map": "0:9,1:1"}, "teacher layer 9, but the teacher has 4 layers"),
    "preset and policy": (
        lambda p, t, r: {"preset": "kd", "policy": "all"}, "the preset 'kd' says what is transferred when",
    ),
    "unknown preset": (lambda p, t, r: {"preset": "tinybrt"}, "unknown preset 'tinybrt': did you mean 'tinybert'?"),
    "preset and types": (lambda p, t, r: {"preset": "kd", "knowledge": "hidden"}, "leave hidden away"),
    "preset of other heads": (
        lambda p, t, r: {"student": other_heads(p), "student_layers": None, "preset": "tinybert"},
        "the preset 'tinybert' cannot be used so",
    ),
    "second of one teacher": (lambda p, t, r: {"knowledge": "logits@2"}, "'logits@2' names no teacher"),
    "accumulate": (lambda p, t, r: {"accumulate": "0"}, "must be above 0, got 0"),
    "cache budget": (lambda p, t, r: {"cache": str(p / "cache"), "cache_budget": "2XB"}, "'2XB' is no size"),
    "no attention": (lambda p, t, r: {"teacher": deberta(p), "student_layers": "1"}, "cannot give its attention"),
    "heads": (
        lambda p, t, r: {"student": other_heads(p), "student_layers": None}, "2 attention heads and the teacher 4",
    ),
    "too deep": (lambda p, t, r: {"student_layers": "9"}, "9 layers cannot be cut from a model of 4"),
    "no student": (lambda p, t, r: {"student_layers": None}, "--student-layers, or --student"),
    "device": (lambda p, t, r: {"device": "cuda:7"}, "there is no device 'cuda:7'"),
    "reward": (lambda p, t, r: {"reward": "gapp"}, "did you mean 'gap'"),
    "steps": (lambda p, t, r: {"steps": "0"}, "steps must be above 0, got 0"),
    "missing policy": (lambda p, t, r: {"policy": str(p / "none")}, "none"),
    "pickled policy": (lambda p, t, r: {"policy": pickled_policy(p, r)}, "is a pickle"),
    "a zip as policy": (lambda p, t, r: {"policy": zipped_policy(p)}, "zip is never read"),
    "truncated policy": (lambda p, t, r: {"policy": truncated_policy(p, r)}, "policy.safetensors"),
    "policy of another schema": (lambda p, t, r: {"policy": other_schema(p, r)}, "99"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(
    case: str, tmp_path: Path, teacher: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD[case]
    good = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--output", str(tmp_path / "run")]
    capsys.readouterr()
    assert main(with_change(good, **make(tmp_path, teacher, trained))) == 2
    said = capsys.readouterr().err
    assert said.startswith("ackd: ")
    assert said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(trained: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in trained.iterdir())
    arguments = ["distill", "--task", "polarity", "--teacher", str(teacher), *SHORT, "--output", str(trained)]
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--policy", "nonsense"]) == 2  # and not before all input is checked
    assert sorted(path.name for path in trained.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --task polarity --teacher T --agent a3c --student-layers 2", "'a3c'"),
        ("train --task polarity --teacher T --episodes 0 --student-layers 2", "0 episodes of 1 students"),
        ("evaluate --tasks polarity tally --teachers T --student-layers 2", "2 tasks and 1 teachers"),
        ("evaluate --tasks polarity --teachers , --student-layers 2", "the name of a model is empty"),
        ("evaluate --tasks polarity --teachers T --seeds 0 --student-layers 2", "--seeds is 0"),
        ("evaluate --tasks polarity --teachers T --policies all labels all --student-layers 2", "'all' is named twice"),
        ("evaluate --tasks polarity polarity --teachers T T --student-layers 2", "'polarity' is named twice"),
        ("finetune --task sst2", "--model"),
        ("finetune --task polarity --epochs 0", "epochs must be above 0"),
    ],
)
def test_bad_input_of_the_other_commands(
    arguments: str, words: str, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(teacher) if word == "T" else word for word in arguments.split()]
    capsys.readouterr()
    assert main([*given, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_program_itself(tmp_path: Path) -> None:
    """Through a shell: exit codes, quiet when nobody watches, and a mistyped option or command."""
    program = [sys.executable, "-m", "ackd"]
    for arguments in (["--help"], ["train", "--help"]):
        shown = subprocess.run([*program, *arguments], capture_output=True, text=True, check=True)
        assert "usage: ackd" in shown.stdout
    shown = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"ackd {version('ackd')}\n"
    refused = subprocess.run([*program, "trian"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("ackd: unknown command 'trian': did you mean 'train'")
    for arguments in (["finetune", "--tsk", "sst2"], []):
        refused = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
    arguments = f"finetune --task polarity --max-examples 600 --epochs 0.2 --output {tmp_path / 'run'}".split()
    quiet = subprocess.run([*program, *arguments], capture_output=True, text=True, check=True)
    lines = quiet.stderr.splitlines()  # on a slow machine it says how far it is
    assert [line for line in lines if not line.startswith("finetune: ")] == []


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ackd")
    with progress.progress(4, "distill (all)") as bar:
        bar.update(2)
        progress.move(bar, 3)
    assert caplog.messages == []  # it did not take long
    monkeypatch.setattr(progress, "EVERY", 1e-9)
    with progress.progress(4, "distill (all)") as bar:
        bar.update(2)
        progress.move(bar, 3)
    assert all(re.fullmatch(r"distill \(all\): \d of 4 steps, \d\d:\d\d left", line) for line in caplog.messages)
    assert [line.split()[2] for line in caplog.messages] == ["2", "3"]


def test_a_signal_leaves_no_half_made_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr(tqdm, "_get_free_pos", asked)  # what it asks itself on the way
    with pytest.raises(Stopped), stoppable(), progress.progress(4, "distill"):
        pytest.fail("it went on")
    gc.collect()  # a complaint would be a warning, and that an error


@pytest.mark.parametrize("words", [["presets"], ["--help"], ["policies", "list"]])
def test_who_reads_only_the_first_lines_sees_no_error(words: list[str]) -> None:
    """Python's buffer makes the last lines fail at the exit alone, unless they are brought out before."""
    program = [sys.executable, "-m", "ackd", *words]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
