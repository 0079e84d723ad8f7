"""Calls as people mistype them: each is answered by one sentence that names the option and the value."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ackd.cli import main, parsing
from ackd.cli.words import Given
from ackd.errors import InputError

GOOD = "distill --task polarity --teacher {teacher} --student-layers 2 --steps 4 --output {out}"
# what can be known before anything is read: the call, and what its sentence has to name
PARSER: dict[str, tuple[str, tuple[str, ...]]] = {
    "no command": ("", ("finetune", "distill", "ackd --help")),
    "a command with a letter missing": ("distil --task polarity --output {out}", ("'distil'", "'distill'")),
    "a command with letters swapped": ("trian --task polarity --output {out}", ("'trian'", "'train'")),
    "a command in capitals": ("DISTILL --task polarity --output {out}", ("'DISTILL'", "'distill'")),
    "an option before the command": ("--task polarity distill --output {out}", ("--task", "command first")),
    "no subcommand": ("policies", ("list", "show", "export", "import")),
    "a mistyped subcommand": ("policies shwo default", ("'shwo'", "'show'")),
    "all required options missing": ("distill --lr 1e-3", ("--task", "--output")),
    "three required options missing": (
        "refine-data --ratio 0.5", ("--teacher-scores", "--reference-scores", "--output"),
    ),
    "a positional argument missing": ("report", ("RUN",)),
    "one of two positional arguments missing": ("policies export default", ("FILE",)),
    "a positional argument too many": ("report one two", ("'two'",)),
    "a number with an exponent for steps": (f"{GOOD} --decisions 1e3", ("--decisions", "'1e3'", "1000")),
    "a number with a point for a batch": (f"{GOOD} --batch-size 3.5", ("--batch-size", "'3.5'", "whole number")),
    "a word for a number": (f"{GOOD} --lr abc", ("--lr", "'abc'", "number")),
    "a word for a whole number": (f"{GOOD} --seed zero", ("--seed", "'zero'", "whole number")),
    "no number": (f"{GOOD} --lr nan", ("--lr", "'nan'", "number")),
    "a comma for a point": (f"{GOOD} --warmup 0,06", ("--warmup", "'0,06'", "0.06")),
    "a seed below 0": (f"{GOOD} --seed -1", ("--seed", "-1")),
    "a huge number": (f"{GOOD} --max-examples 99999999999", ("--max-examples", "99999999999")),
    "transformers' name of an option": (f"{GOOD} --learning-rate 1e-4", ("--learning-rate", "--lr")),
    "transformers' long name of an option": (
        f"{GOOD} --per_device_train_batch_size 8", ("--per_device_train_batch_size", "--batch-size"),
    ),
    "a letter missing": (f"{GOOD} --stps 5", ("--stps", "--steps")),
    "one of several teachers": (f"{GOOD} --teachers b", ("--teachers", "--teacher")),
    "an option of another command": (f"{GOOD} --episodes 4", ("--episodes", "ackd train")),
    "an option of nothing": (f"{GOOD} --frobnicate 4", ("--frobnicate", "ackd distill --help")),
    "one dash": (f"{GOOD} -lr 1e-3", ("-lr", "--lr")),
    "a long dash": (f"{GOOD} \u2013lr 1e-3", ("lr", "--lr")),
    "a short option": (f"{GOOD} -o there", ("-o", "--output")),
    "an option and no value": (f"{GOOD} --lr", ("--lr", "number")),
    "an option and the next option": (f"{GOOD} --lr --seed 1", ("--lr", "number")),
    "an option of several and no value": (f"{GOOD} --knowledge", ("--knowledge",)),
    "a value too many": (f"{GOOD} --lr 1e-3 1e-4", ("--lr", "'1e-4'")),
    "a value too few": (f"{GOOD} --adam-betas 0.9", ("--adam-betas", "'0.9'", "2")),
    "a word among numbers": (f"{GOOD} --adam-betas 0.9 x", ("--adam-betas", "'x'", "number")),
    "a word that belongs to nothing": ("distill polarity --output {out}", ("'polarity'",)),
    "an option twice": (f"{GOOD} --lr 1 --lr 2", ("--lr", "'1'", "'2'")),
    "an option of several twice": (f"{GOOD} --knowledge logits --knowledge hidden", ("--knowledge", "'hidden'")),
    "a switch both ways": (f"{GOOD} --refine --no-refine", ("--refine", "--no-refine")),
    "a value for a switch": (f"{GOOD} --refine true", ("--refine", "'true'")),
    "a value for a switch, with =": (f"{GOOD} --refine=yes", ("--refine", "'yes'")),
    "a number switched off": (f"{GOOD} --no-warmup", ("--no-warmup", "--warmup")),
    "an unknown choice": (f"{GOOD} --precision fp61", ("--precision", "'fp61'", "fp32", "bf16")),
    "a mistyped choice": (f"{GOOD} --schedule cosin", ("--schedule", "'cosin'", "'cosine'")),
    "an empty policy": (f"{GOOD} --policy=", ("--policy", "empty")),
    "an empty name among several": (f"{GOOD} --knowledge logits ''", ("--knowledge", "empty")),
    "an empty number": (f"{GOOD} --lr ''", ("--lr", "empty")),
    "a config that is not there": (f"{GOOD} --config {{place}}/none.yaml", ("--config", "none.yaml")),
    "a folder for a config": (f"{GOOD} --config {{place}}", ("--config", "folder")),
    "a config twice": (f"{GOOD} --config a.yaml --config b.yaml", ("--config", "'b.yaml'")),
    "no name of a config": (f"{GOOD} --config", ("--config",)),
    "a model's config": (f"{GOOD} --config {{place}}/model.json", ("model.json", "model_type", "--student")),
}  # fmt: skip
# what takes a look at files, models or methods
LATER: dict[str, tuple[str, tuple[str, ...]]] = {
    "data that are not there": (
        f"{GOOD} --data {{place}}/none.csv --text-columns text --label-column label", ("none.csv",),
    ),
    "a folder of nothing for data": (
        f"{GOOD} --data {{place}}/empty --text-columns text --label-column label", ("empty",),
    ),
    "a folder for dev data": (
        f"{GOOD} --data {{place}}/own.csv --text-columns text --label-column label --dev-data {{place}}/empty",
        ("empty",),
    ),
    "dev data that are not there": (
        f"{GOOD} --data {{place}}/own.csv --text-columns text --label-column label --dev-data {{place}}/none.csv",
        ("none.csv",),
    ),
    "a column that is not there": (
        f"{GOOD} --data {{place}}/own.csv --text-columns txt --label-column label", ("'txt'", "text"),
    ),
    "a task that is none": ("distill --task polarty --teacher x --output {out}", ("'polarty'", "'polarity'")),
    "a teacher that is not there": ("distill --task polarity --teacher ./none --output {out}", ("./none",)),
    "a student's config that is not there": (
        "distill --task polarity --teacher {teacher} --student none.json --output {out}", ("none.json",),
    ),
    "instances that are not there": ("train --instances none.json --output {out}", ("none.json",)),
    "a folder for instances": ("train --instances {place} --output {out}", ("{place}",)),
    "a folder at home that is not there": (f"{GOOD} --data ~/none", ("--data", "~/none")),
    "one of two teachers that is not there": (
        "evaluate --tasks polarity --teachers {teacher},./none --student-layers 1 --output {out}", ("./none",),
    ),
    "a text that is not there": (
        "pretrain --corpus none.txt --student {place}/model.json --output {out}", ("none.txt",),
    ),
    "a preset that is none": (f"{GOOD} --preset kdd", ("'kdd'", "'kd'")),
    "an option of a preset that it has not": (f"{GOOD} --preset kd --options alfa=1", ("'alfa'", "alpha")),
    "a preset that is shown and is none": ("presets kdd", ("'kdd'", "'kd'")),
    "a policy that is none": (f"{GOOD} --policy schedule", ("'schedule'", "'scheduled'")),
    "a file for the output": (f"{GOOD[:-5]}{{place}}/own.csv", ("own.csv", "folder")),
    "a file for the cache": (f"{GOOD} --cache {{place}}/own.csv", ("own.csv", "folder")),
    "a run that is not there": ("report {place}/none", ("none",)),
    "a policy to take in that is not there": ("policies import {place}/none", ("none",)),
    "a model that is not there": (
        "predict --task moods --data own.csv --text-columns text --model ./none --output {out}", ("./none",),
    ),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a call is made."""
    (tmp_path / "own.csv").write_text("text,label\n" + "good words,1\nbad words,0\n" * 300)
    (tmp_path / "model.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


NOT_THERE = [
    case for case in LATER if case.endswith("not there") and not case.startswith(("a column", "a run", "a policy"))
]


def split(line: str, **indices: object) -> list[str]:
    """The words of a call."""
    return ["" if word == "''" else word.format(**indices) for word in line.split()]


def answer(arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str], *, begins: bool = False) -> str:
    """The one sentence that a call is answered by, after a line about what begins; it leaves nothing behind."""
    before = sorted(place.rglob("*"))
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as end:
        pytest.fail(f"the parser ended it with {end.code}: {capsys.readouterr().err}")
    said = capsys.readouterr()
    assert status == 2
    assert said.out.count("\n") <= begins
    assert said.err.startswith("ackd: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert sorted(place.rglob("*")) == before
    return said.err


@pytest.mark.parametrize("case", PARSER)
def test_what_the_parser_knows_is_one_sentence_at_once(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, named = PARSER[case]
    began = time.process_time()
    said = answer(split(line, teacher="teacher", out=place / "run", place=place), place, capsys)
    assert time.process_time() - began < 2
    for one in named:
        assert one in said


@pytest.mark.parametrize("case", LATER)
def test_what_is_read_is_answered_by_one_sentence(
    case: str, place: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, named = LATER[case]
    said = answer(split(line, teacher=teacher, out=place / "run", place=place), place, capsys, begins=True)
    for one in named:
        assert one.format(place=place) in said


def test_none_of_it_waits_for_torch(place: Path) -> None:
    lines = [line for line, _ in PARSER.values()] + [LATER[case][0] for case in NOT_THERE]
    calls = [split(line, teacher=place, out=place / "run", place=place) for line in lines]
    program = f"import sys; from ackd.cli import main; print([main(one) for one in {calls!r}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{[2] * len(calls)} False\n"


def test_what_only_the_parser_sees_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given({"task": ["a"], "output": ["o"], "lr": ["abc"]}, {})
    monkeypatch.setattr(parsing, "read", lambda command, words: given)
    with pytest.raises(InputError) as told:
        parsing.parse(["distill"])
    for one in ("--lr", "abc", "ackd distill --help"):
        assert one in str(told.value)
    assert "\n" not in str(told.value)
    assert "│" not in str(told.value)
