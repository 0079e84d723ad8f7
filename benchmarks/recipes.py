"""Runs the recipes of `ackd finetune` and `ackd distill` for GLUE, and prints their scores as a table.

    python benchmarks/recipes.py --model MODEL --data GLUE [--tasks cola stsb] [--teacher sst2=FOLDER] [--output FOLDER]

A teacher is fine-tuned from --model by its recipe, unless --teacher names it. A run that has ended is kept, so the same
command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ackd.cli.config_file import recipes

SHARED = Path(os.environ.get("ACKD_SHARED", "../shared"))
HEADER = ("task", "metric", "teacher", "student", "teacher's epochs", "student's epochs", "steps")


def ran(words: list[str], output: Path) -> dict[str, Any]:
    """The result of a command, which runs if it has not ended before."""
    result = output / "result.json"
    if not result.exists():
        subprocess.run([sys.executable, "-m", "ackd", *words, "--output", str(output)], check=True)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def row(task: str, options: argparse.Namespace, teachers: dict[str, str]) -> str:
    """Teacher and student of one task."""
    data, folder = ["--data", str(options.data)], options.output / task
    epochs = {
        name: yaml.safe_load(recipes(name)[task].read_text(encoding="utf-8"))["epochs"]
        for name in ("finetune", "distill")
    }
    if task not in teachers:
        ran(["finetune", "--config", task, "--model", str(options.model), *data, "--overwrite"], folder / "teacher")
    teacher = teachers.get(task, str(folder / "teacher"))
    cache = ["--cache", str(options.output / "cache")]
    result = ran(["distill", "--config", task, "--teacher", teacher, *data, *cache, "--resume"], folder / "student")
    scores = [f"{result[name]:.2f}" for name in ("teacher_score", "dev_score")]
    lasted = ["given" if task in teachers else f"{epochs['finetune']}", f"{epochs['distill']}"]
    cells = [task, result["metric"], *scores, *lasted, f"{result['steps']:,}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*recipes("distill")], choices=[*recipes("distill")])
    parser.add_argument("--model", default=str(SHARED / "models" / "minilm-l6"))
    parser.add_argument("--data", default=str(SHARED / "glue"))
    parser.add_argument("--teacher", nargs="+", default=[], metavar="TASK=FOLDER")
    parser.add_argument("--output", type=Path, default=Path("runs/recipes"))
    options = parser.parse_args()
    teachers = dict(one.split("=", 1) for one in options.teacher)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{versions}, Python {platform.python_version()}\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for task in options.tasks:
        print(row(task, options, teachers), flush=True)


if __name__ == "__main__":
    main()
