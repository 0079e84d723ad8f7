"""Measures the scores of students under each policy on real tasks.

    python benchmarks/quality.py run --data GLUE --models MODELS --task sst2      (then stsb, mrpc, and sst2 again)
    python benchmarks/quality.py table
    python benchmarks/quality.py run --size middle --task sst2
    python benchmarks/quality.py run --size full --device cuda --task sst2

GLUE is a folder in the hub's layout. MODELS contains `minilm-l6` (sentence-transformers/all-MiniLM-L6-v2) and teachers
fine-tuned from it as `minilm-l6-TASK`; missing teachers are made. All files go to `build/quality` or
`build/quality-SIZE`. A second run continues the agent's training, the search, and the cells of the table. `table`
prints the available results. On two CPU cores, the small size takes some hours for three tasks, and the middle size for
one. The full size is for a GPU.

The agent trains on its own seeds, with rewards from a part of the training data. Dev is only read for the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# source of the policy that never saw the task
OTHERS = {"sst2": "mrpc", "mrpc": "sst2", "stsb": "sst2", "rte": "sst2", "cola": "sst2"}
RULES = ("labels", "all", "logits", "hidden", "attention", "random", "scheduled", "ucb", "best-static")
EPISODES, SEEDS = 32, 5


@dataclass(frozen=True)
class Size:
    """How long students learn, from how many examples, and under which policies beside the learned ones."""

    setting: str
    students: int = 16
    teacher: str = "--epochs 3 --lr 5e-5 --max-length 128"
    policies: Sequence[str] = RULES


SIZES = {
    "small": Size(
        "--student-layers 2 --steps 100 --decision-interval 10 --batch-size 16 --lr 2e-4 --max-length 48 "
        "--max-examples 3000 --reward score-gap --reward-examples 512",
        teacher="--epochs 2 --lr 1e-4 --max-length 48 --max-examples 3000",
    ),
    "middle": Size(
        "--student-layers 2 --steps 600 --decision-interval 60 --batch-size 32 --lr 2e-4 --max-length 48 "
        "--max-examples 10000 --reward score-gap --reward-examples 512",
        students=8,
        policies=(*RULES, "default", "default:refine"),
    ),
    "full": Size(
        "--student-layers 3 --steps 1000 --decision-interval 50 --batch-size 32 --lr 1e-4 --max-length 128 "
        "--reward score-gap --reward-examples 512 --precision bf16",
        policies=(*RULES, "uncertainty-weights", "default", "default:refine", "lookahead"),
    ),
}


def ackd(*arguments: str) -> None:
    """One command of ackd, with the threads that this process has."""
    print("ackd", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ackd", *arguments], check=True)


def run(task: str, data: str, models: Path, folder: Path, size: Size, device: str) -> None:
    """Everything for one task."""
    teacher = models / f"minilm-l6-{task}"
    if not teacher.is_dir():
        teacher = folder / f"teacher-{task}"
        if not (teacher / "result.json").is_file():
            options = [*size.teacher.split(), "--overwrite"]
            ackd(
                *("finetune", "--task", task, "--data", data, "--model", str(models / "minilm-l6")),
                *("--output", str(teacher), "--device", device, *options),
            )
    setting = [*size.setting.split(), "--cache", str(folder / "cache"), "--device", device]
    search = f"--search-tries 8 --search-seeds {EPISODES // 8}".split()
    ackd(
        *("train", "--task", task, "--teacher", str(teacher), "--data", data, *setting, "--agent", "ppo"),
        *("--episodes", str(EPISODES), "--students", str(size.students)),
        *("--output", str(agent(folder, task)), "--resume"),
    )
    common = ["evaluate", "--tasks", task, "--teachers", str(teacher), "--data", data, *setting, *search]
    common += ["--output", str(folder / task / "table"), "--resume", "--seeds", str(SEEDS)]
    learned = [str(agent(folder, task))]
    other = agent(folder, OTHERS[task])
    if (other / "policy").is_dir():
        learned.append(str(other))
    else:
        print(f"the policy of {OTHERS[task]} is not there yet: run this again when it is", flush=True)
    ackd(*common, "--policies", *size.policies, *learned)


def agent(folder: Path, task: str) -> Path:
    """Where the agent of a task is."""
    return folder / task / "agent"


def table(folder: Path) -> str:
    """The tables over all tasks that are there."""
    from ackd.reporting.tables import tables

    cells: list[dict[str, Any]] = []
    for task, other in OTHERS.items():
        path = folder / task / "table" / "result.json"
        if path.is_file():
            cells += [named(cell, folder, other) for cell in json.loads(path.read_text())["cells"]]
    return tables(cells)


def named(cell: dict[str, Any], folder: Path, other: str) -> dict[str, Any]:
    """A cell under the name that its policy has over all tasks."""
    names = {
        str(agent(folder, cell["task"])): "full mode",
        str(agent(folder, other)): "frozen, from another task",
        f"{agent(folder, other)}:refine": "refined, from another task",
    }
    return cell | {"policy": names.get(cell["policy"], cell["policy"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--task", choices=tuple(OTHERS))
    parser.add_argument("--data", default="../shared/glue")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = options.folder or Path("build/quality" if options.size == "small" else f"build/quality-{options.size}")
    if options.what == "table":
        print(table(folder))
    else:
        run(options.task, options.data, options.models, folder, SIZES[options.size], options.device)


if __name__ == "__main__":
    main()
