"""What students reach under each policy on real tasks, small enough for two CPU cores.

    python benchmarks/quality.py run --data GLUE --models MODELS --task sst2      (then stsb, mrpc, and sst2 again)
    python benchmarks/quality.py table

GLUE is a folder in the hub's layout; MODELS holds `minilm-l6` (sentence-transformers/all-MiniLM-L6-v2) and teachers
that were fine-tuned from it as `minilm-l6-TASK`; one that is missing is made. Everything goes to `build/quality` and is
taken up again where it stopped: the agent's training, the search, and the table cell by cell. `table` prints what is
there.

The agent learns on seeds of its own with rewards from a part of the training data; dev is read for the table alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OTHERS = {"sst2": "mrpc", "mrpc": "sst2", "stsb": "sst2"}  # where the policy comes from that never saw the task
EPISODES, STUDENTS, SEEDS = 32, 16, 5
SETTING = (
    "--student-layers 2 --steps 100 --decision-interval 10 --batch-size 16 --lr 2e-4 --max-length 48 "
    "--max-examples 3000 --reward score-gap --reward-examples 512 --cache build/quality/cache"
).split()
RULES = ("labels", "all", "logits", "hidden", "attention", "random", "scheduled", "ucb", "best-static")


def ackd(*arguments: str) -> None:
    """One command of ackd, with the threads that this process has."""
    print("ackd", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ackd", *arguments], check=True)


def run(task: str, data: str, models: Path, folder: Path) -> None:
    """Everything for one task."""
    teacher = models / f"minilm-l6-{task}"
    if not teacher.is_dir():
        teacher = folder / f"teacher-{task}"
        if not (teacher / "result.json").is_file():
            options = "--epochs 2 --lr 1e-4 --max-length 48 --max-examples 3000 --overwrite".split()
            ackd(
                *("finetune", "--task", task, "--data", data, "--model", str(models / "minilm-l6")),
                *("--output", str(teacher), *options),
            )
    search = f"--search-tries 8 --search-seeds {EPISODES // 8}".split()
    ackd(
        *("train", "--task", task, "--teacher", str(teacher), "--data", data, *SETTING, "--agent", "ppo"),
        *("--episodes", str(EPISODES), "--students", str(STUDENTS), "--output", str(agent(folder, task)), "--resume"),
    )
    common = ["evaluate", "--tasks", task, "--teachers", str(teacher), "--data", data, *SETTING, *search]
    common += ["--output", str(folder / task / "table"), "--resume", "--seeds", str(SEEDS)]
    ackd(*common, "--policies", *RULES, str(agent(folder, task)))
    other = agent(folder, OTHERS[task])
    if (other / "policy").is_dir():
        ackd(*common, "--policies", *RULES, str(agent(folder, task)), str(other), f"{other}:refine")
    else:
        print(f"the policy of {OTHERS[task]} is not there yet: run this again when it is", flush=True)


def agent(folder: Path, task: str) -> Path:
    """Where the agent of a task is."""
    return folder / task / "agent"


def table(folder: Path) -> str:
    """The tables over all tasks that are there."""
    from ackd.cli.tables import tables

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
    parser.add_argument("--folder", type=Path, default=Path("build/quality"))
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.what == "table":
        print(table(options.folder))
    else:
        run(options.task, options.data, options.models, options.folder)


if __name__ == "__main__":
    main()
