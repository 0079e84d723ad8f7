"""`--config FILE`: options from a file, and the file that a run leaves, which repeats it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import ackd
from ackd import models
from ackd.cli import main
from ackd.cli.commands import commands, options_of
from ackd.cli.config_file import recipes
from ackd.cli.parsing import parse
from ackd.files.yaml_file import yaml_text
from ackd.runs.folder import OWN, REPEAT

DATA = "--task polarity --max-examples 60 --reward-examples 40 --batch-size 8 --lr 5e-4 --steps 4"
# a call of each command with values of every kind
CALLS = {
    "finetune": "--task sst2 --model m --epochs 2.5 --adam-betas 0.8 0.99 --schedule cosine --text-columns a b",
    "distill": "--task sst2 --teacher t u --student-layers 3 --policy=-1 --refine --decisions None --options alpha=1e3",
    "predict": "--task sst2 --model m --precision bf16 --overwrite",
    "cache": "--task sst2 --teacher t --budget 1e9GB --shard 1/4 --dtype bfloat16",
    "pretrain": "--corpus c --student s.json --part 0:0.05 --flops 1e18",
    "score": "--corpus c --model m --shard 2/3",
    "refine-data": "--teacher-scores a b --reference-scores c --exclude 0:0.5 --normalise sum",
    "generate": "--corpus c --model m --temperature 0",
    "train": "--instances embedded-v1 --agent ppo --agent-options phase=4 hard=no --workers 2",
    "evaluate": "--tasks sst2 rte --teachers a b,c --policies labels agent=runs/a preset:kd:tau=2 --seeds 2",
    "tune": "--task sst2 --teacher t --temperature 1 2.5 --kd-weight 1",
    "mutual": "--task sst2 --students a b a --no-peer-dropout",
    "federate": "--task sst2 --starts labels --target 50 --split dirichlet:0.1",
    "policies show": "default",
    "policies export": "default x.safetensors --overwrite",
    "policies import": "x.safetensors --name mine",
    "push": "runs/a me/student --private --revision v1",
    "export": "runs/student --int8",
    "presets": "kd",
    "report": "runs/table --output elsewhere",
}
TAKEN = {"predict", "cache", "policies show", "policies export", "policies import"}  # no runs
TAKEN |= {"export", "push", "presets", "report"}


def words(name: str) -> list[str]:
    out = ["--output", "here"] if name not in TAKEN or name in ("predict", "cache") else []
    return [*name.split(), *CALLS[name].split(), *out]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ackd: ")
    assert said.count("\n") == 1
    return said


def test_every_command_is_called() -> None:
    assert {*CALLS, "policies list"} == {*commands()}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dashes", [False, True])
def test_a_file_says_what_words_say(name: str, dashes: bool, tmp_path: Path) -> None:
    meant = parse(words(name))
    settings = dataclasses.asdict(meant)
    plain = {key: list(one) if isinstance(one, tuple) else one for key, one in settings.items()}
    text = yaml_text({key.replace("_", "-") if dashes else key: value for key, value in plain.items()})
    (tmp_path / "x.yaml").write_text(text)
    assert parse([*name.split(), "--config", str(tmp_path / "x.yaml")]) == meant


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("task: sst2\nteacher: runs/teacher\noutput: there\nlr: 1e-3\nseed: 3\nrefine: true\nsteps: 30\n")
    plain = parse(["distill", "--config", str(path)])
    assert (plain.task, plain.teacher, plain.lr, plain.seed, plain.refine) == ("sst2", ("runs/teacher",), 1e-3, 3, True)
    assert (plain.steps, plain.epochs, plain.batch_size) == (30, None, 32)
    more = ["--lr", "2", "--no-refine", "--teacher", "a", "b", "--output", "here", "--epochs", "2"]
    other = parse(["distill", *more, "--config", str(path)])
    assert (other.lr, other.refine, other.teacher, other.output, other.seed) == (2.0, False, ("a", "b"), "here", 3)
    assert (other.steps, other.epochs) == (None, 2.0)  # they say the same thing


def test_the_documented_file_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    (tmp_path / "x.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    said = ["--task", "sst2", "--teacher", "runs/teacher", "--student-layers", "3", "--epochs", "3", "--lr", "5e-5"]
    meant = parse(["distill", *said, "--policy", "default", "--output", "runs/student"])
    assert parse(["distill", "--config", str(tmp_path / "x.yaml")]) == meant


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in ("finetune", "distill") for task in recipes(name)])
def test_a_recipe_has_the_options_of_its_task(name: str, task: str) -> None:
    teacher = ["--teacher", "t"] if name == "distill" else []
    parsed = parse([name, "--config", task, *teacher, "--output", "here"])
    assert parsed.task == task
    assert parsed.epochs >= 1
    longer = parse([name, "--config", task, *teacher, "--output", "here", "--epochs", "9", "--lr", "1"])
    assert longer == dataclasses.replace(parsed, epochs=9.0, lr=1.0)


def test_there_are_recipes_for_teachers_and_students() -> None:
    assert {*recipes("finetune")} == {*recipes("distill")} >= {"cola", "mrpc", "sst2", "stsb"}
    assert recipes("train") == {}


def test_a_file_wins_over_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sst2").write_text("task: rte\nteacher: t\noutput: here\n")
    assert parse(["distill", "--config", "sst2"]).task == "rte"


def test_a_word_that_is_neither_file_nor_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "distill", "--config", "mrcp", "--teacher", "t", "--output", "here")
    for one in ("mrcp", *recipes("distill")):
        assert one in said


def test_what_is_nowhere_said_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("teacher: t\noutput: here\n")
    said = refused(capsys, "distill", "--config", tmp_path / "x.yaml")
    assert "--task" in said
    assert "--output" not in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("task: sst2\nleraning_rate: 1\n", ("line 2", "'leraning_rate'")),
        ("learning-rate: 1\n", ("line 1", "'learning-rate'", "lr")),
        ("batchsize: 8\n", ("line 1", "'batchsize'", "batch-size")),
        ("episodes: 8\n", ("line 1", "'episodes'", "ackd train")),
        ("lr: high\n", ("line 1", "lr", "number", '"high"')),
        ("\n\nbatch-size: 8.5\n", ("line 3", "batch-size", "whole number", "8.5")),
        ("batch_size: true\n", ("line 1", "batch_size", "true")),
        ("refine: 1\n", ("line 1", "refine", "true or false", "1")),
        ("policy: 5\n", ("line 1", "policy", "text", "5")),
        ("policy: ''\n", ("line 1", "policy", "empty")),
        ("task:\n", ("line 1", "task", "null")),
        ("precision: fp61\n", ("line 1", "precision", "'fp61'", "fp32")),
        ("teacher: [a, 5]\n", ("line 1", "teacher", "list")),
        ("teacher: {a: b}\n", ("line 1", "teacher")),
        ("adam_betas: 0.9\n", ("line 1", "adam_betas", "list of 2")),
        ("lr: 1\nlr: 2\n", ("line 2", "lr", "line 1")),
        ("batch-size: 1\nbatch_size: 2\n", ("line 2", "batch_size", "line 1")),
        ("lr: .nan\n", ("line 1", "lr", "number")),
        ("lr: [\n", ("no YAML",)),
        ("config: other.yaml\n", ("line 1", "'config'")),
    ],
)
def test_what_is_wrong_in_it_is_one_sentence(
    text: str, named: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    said = refused(capsys, "distill", "--config", tmp_path / "x.yaml", "--output", tmp_path / "run")
    for one in (str(tmp_path / "x.yaml"), *named):
        assert one in said
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    more = ["--teacher", str(teacher), "--student-layers", "2", "--policy", "random-weights", "--seed", "5"]
    assert main(["distill", *DATA.split(), *more, "--decision-interval", "2", "--output", str(folder)]) == 0
    return folder


def bits(folder: Path) -> dict[str, bytes]:
    (weights,) = folder.glob("*/model.safetensors")
    table = folder / "decisions.csv"
    return {"weights": weights.read_bytes()} | ({"decisions": table.read_bytes()} if table.is_file() else {})


def test_a_runs_file_repeats_it_bit_for_bit(run: Path, tmp_path: Path) -> None:
    assert main(["distill", "--config", str(run / REPEAT), "--output", str(tmp_path / "again")]) == 0
    assert bits(tmp_path / "again") == bits(run)
    assert (tmp_path / "again" / REPEAT).read_bytes() == (run / REPEAT).read_bytes()
    other = ["--seed", "6", "--output", str(tmp_path / "other")]
    assert main(["distill", "--config", str(run / REPEAT), *other]) == 0
    assert bits(tmp_path / "other") != bits(run)


def test_it_holds_every_option_but_those_of_one_execution(run: Path) -> None:
    text = (run / REPEAT).read_text()
    assert text.startswith("# ackd distill --config ")
    assert {*yaml.safe_load(text)} == {*options_of(commands()["distill"])} - {*OWN}


def test_a_runs_file_repeats_it_from_python(teacher: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((teacher / REPEAT).read_text())
    ackd.finetune(**settings | {"max_examples": 60}, output=tmp_path / "python")
    arguments = ["finetune", "--config", str(teacher / REPEAT), "--max-examples", "60"]
    assert main([*arguments, "--output", str(tmp_path / "words")]) == 0
    assert bits(tmp_path / "python") == bits(tmp_path / "words")


def test_a_run_of_objects_leaves_none(teacher: Path, tmp_path: Path) -> None:
    model, tokenizer = models.load_model(teacher), models.load_tokenizer(teacher)
    settings: dict[str, Any] = {"max_examples": 60, "reward_examples": 40, "steps": 1}
    ackd.finetune(model, tokenizer=tokenizer, task="polarity", **settings, output=tmp_path / "run")
    assert (tmp_path / "run" / "config.json").is_file()
    assert not (tmp_path / "run" / REPEAT).exists()


def test_a_run_is_resumed_with_the_options_that_it_began_with(run: Path, tmp_path: Path) -> None:
    """Those that are not given again; the state is gone here, so that it begins anew."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    for name in ("student", "checkpoint"):
        shutil.rmtree(folder / name)
    assert main(["distill", "--output", str(folder), "--resume"]) == 0
    assert bits(folder) == bits(run)


def test_options_of_another_default_are_taken_from_the_run(run: Path, tmp_path: Path) -> None:
    begun = json.loads((run / "config.json").read_text())
    begun["settings"] |= {"device": "cpu", "reward_examples": 30}
    (tmp_path / "config.json").write_text(json.dumps(begun))
    command = parse(["distill", "--output", str(tmp_path), "--resume", "--seed", "9", "--epochs", "2"])
    assert (command.device, command.reward_examples, command.seed) == ("cpu", 30, 9)
    assert (command.epochs, command.steps) == (2.0, None)
    anew = parse(["distill", "--task", "polarity", "--teacher", "t", "--output", str(tmp_path)])
    assert (anew.device, anew.reward_examples) == ("auto", None)


def test_what_a_resumed_run_is_given_again_has_to_be_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "distill", "--output", run, "--resume", "--lr", "0.25")
    assert "lr" in said
    assert "0.25" in said


def test_a_damaged_record_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", '{"command": "distill", "settings": {"lr": "much"}}', '{"command": "distill", "settings": []}'):
        (tmp_path / "config.json").write_text(text)
        assert "config.json" in refused(capsys, "distill", "--output", tmp_path, "--resume")


def test_without_a_run_the_call_has_to_be_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"command": "train", "settings": {"task": "sst2"}}')
    for folder in (tmp_path, tmp_path / "none"):
        assert "--task" in refused(capsys, "distill", "--output", folder, "--resume")
