"""A command says at once what it is about to do, and what only prints text loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ackd.cli.commands import commands
from ackd.cli.parsing import parse

AT_ONCE = 2.0  # seconds
WITHOUT = ("torch", "transformers", "stable_baselines3", "datasets")
LINES = {
    "finetune": "--task sst2 --model encoder",
    "distill": "--task sst2 --teacher bert --student-layers 3 --steps 77",
    "predict": "--task sst2 --model bert",
    "export": "runs/bert --int8",
    "cache": "--task sst2 --teacher bert --student-layers 3",
    "pretrain": "--corpus text.txt --student gpt.json",
    "score": "--corpus text.txt --model gpt",
    "refine-data": "--teacher-scores one --reference-scores other",
    "generate": "--corpus text.txt --model gpt",
    "train": "--task sst2 --teacher bert --student-layers 3 --episodes 9",
    "evaluate": "--tasks sst2 --teachers bert --student-layers 3 --policies labels",
    "tune": "--task sst2 --teacher bert --student-layers 3",
    "mutual": "--task sst2 --students one other",
    "federate": "--task sst2 --teacher bert --student-layers 3 --clients 5",
}
NEEDLESS = "sklearn pandas datasets matplotlib stable_baselines3 scipy.stats ray optuna wandb mlflow"
FACTS = {"distill": ("sst2", "bert", "77 steps"), "train": ("sst2", "9 students"), "federate": ("sst2", "5 clients")}


def test_every_command_that_works_for_long_is_here() -> None:
    names = {name.partition(" ")[0] for name in commands()}
    assert names - LINES.keys() == {"policies", "push", "presets", "report"}


def told(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_what_is_about_to_happen_is_said_before_anything_is_loaded() -> None:
    """In one process, whose commands do nothing but that."""
    code = """
import sys, json
from ackd import cli
for line in json.loads(sys.argv[1]):
    command = cli.parse(line)
    cli._say(command)
print([name for name in json.loads(sys.argv[2]) if name in sys.modules])
"""
    lines = [[name, *line.split(), "--output", f"runs/{name}"] for name, line in LINES.items()]
    *said, loaded = told(code, json.dumps(lines), json.dumps(WITHOUT)).splitlines()
    assert len(said) == len(lines)
    for name, line in zip(LINES, said, strict=True):
        assert line.endswith(f", to runs/{name}")
        assert all(fact in line for fact in FACTS.get(name, ())), line
    assert loaded == "[]"


@pytest.mark.parametrize("name", FACTS)
def test_the_line_has_the_facts(name: str) -> None:
    line = parse([name, *LINES[name].split(), "--output", "run"]).about()
    assert all(fact in line for fact in FACTS[name])


def test_the_line_comes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ackd", "distill", *LINES["distill"].split(), "--output", str(tmp_path / "run")]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path) as run:
        assert run.stdout is not None
        line, took = run.stdout.readline(), time.monotonic() - began
        run.kill()
    assert "77 steps" in line
    assert took < 3 * AT_ONCE  # of which a busy machine takes most


@pytest.mark.parametrize("arguments", [["presets"], ["presets", "mutual"], ["distill", "--help"], ["--version"]])
def test_text_waits_for_no_torch(arguments: list[str]) -> None:
    code = "import sys\nfrom ackd.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    assert told(code + "print('torch' in sys.modules)", *arguments).splitlines()[-1] == "False"


def test_a_run_with_a_rule_imports_no_library_that_it_does_not_need(tmp_path: Path, teacher: Path) -> None:
    """To its end, with curves; what torch and transformers import by themselves is no concern of ours."""
    code = """
import gc, sys
from ackd.cli import main
assert main(sys.argv[2:]) == 0
print(gc.isenabled(), gc.get_freeze_count() > 100_000, [name for name in sys.argv[1].split() if name in sys.modules])
"""
    line = ["distill", "--task", "polarity", "--teacher", str(teacher), "--student-layers", "1", "--steps", "1"]
    line += ["--max-examples", "100", "--output", str(tmp_path / "run"), "--quiet"]
    assert told(code, NEEDLESS, *line).splitlines()[-1] == "True True []"
