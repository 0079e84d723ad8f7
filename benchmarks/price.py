"""Measures the price of learning: what a policy costs, in static runs of the same student on the same task.

    python -m benchmarks.price [--output build/price] [--episodes 64] [--students 16] [--seeds 5]

On the setting of `make demo`, `cem` and `residual` learn from 64 students, in cohorts of 16 and one by one; the unit
is the median of `ackd distill --policy all` over some seeds. Each is a command in a process of its own, with one
thread. Its time is that of its ledger (training, rewards and reports, without the start), and also the wall clock of
the whole command. Its FLOPs are all those of its ledger. Time and FLOPs of a learner are those before the final
student. The step of a cohort is also compared with the steps of its students in turn, as `benchmarks/cohort.py` does.
Every finished command is a line of OUTPUT/price.jsonl, and is not run again. The page is printed, and written to
OUTPUT/price.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from ackd.envs.make import distill
from benchmarks.cohort import measure

Row = Mapping[str, float]
STUDENT = "--student-layers 2 --max-examples 1500 --steps 80 --decision-interval 10 --lr 1e-3"
TEACHER = "finetune --task polarity --epochs 8 --lr 1e-3 --batch-size 64"
LEARNERS = ("cem", "residual")


class Rows:
    """What commands took, by name.

    Args:
        path: where they are kept, a line for each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # an incomplete last line of a killed run
                continue
            self.known[row.pop("name")] = row

    def add(self, name: str, row: Row) -> None:
        """Keeps a row."""
        self.known[name] = dict(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **row}) + "\n")

    def static(self) -> list[dict[str, float]]:
        """The rows of the static runs."""
        return [row for name, row in self.known.items() if name.startswith("all-")]


def learned(learner: str, students: int, episodes: int) -> str:
    """The name of a learner's row."""
    return f"{learner}-{episodes}-by-{students}"


def planned(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The name and the words of each command."""
    common = f"--task polarity --teacher {options.teacher} {STUDENT} --quiet"
    for seed in range(options.seeds):
        yield f"all-{seed}", f"distill {common} --policy all --seed {seed}"
    for learner in LEARNERS:
        for students in (options.students, 1):
            learning = f"--agent {learner} --episodes {options.episodes} --students {students}"
            yield learned(learner, students, options.episodes), f"train {common} {learning}"


def taken(words: Sequence[str], folder: Path) -> Row:
    """Runs a command, and reads what it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "ackd", *words, "--output", str(folder), "--overwrite"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - began
    if words[0] == "train":
        cost = json.loads((folder / "policy" / "policy.json").read_text(encoding="utf-8"))["cost"]
        return {"wall": wall, "seconds": cost["seconds"], "flops": cost["flops"], "steps": cost["student_steps"]}
    ledger = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    spent = {name: sum(ledger[name].values()) for name in ("seconds", "flops")}
    return {"wall": wall, **spent, "steps": ledger["steps"]}


def paired(options: argparse.Namespace) -> Row:
    """Student steps a second, of a cohort and of its students in turn, and the median of their ratio."""
    pattern = distill(
        task="polarity", teacher=str(options.teacher), student_layers=2, max_examples=1500, lr=1e-3, steps=10**6
    ).distillation
    given = argparse.Namespace(students=options.students, steps=5, pairs=options.pairs, mixed=False, device="cpu")
    found = measure(pattern, given)
    ratios = [alone / cohort for alone, cohort in zip(found["alone"], found["cohort"], strict=True)]
    steps = given.students * given.steps
    rates = {name: steps / statistics.median(seconds) for name, seconds in found.items()}
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), **rates}


def page(rows: Rows, options: argparse.Namespace) -> str:
    """The tables of what is known."""
    static = rows.static()
    unit = {what: statistics.median(row[what] for row in static) for what in ("seconds", "wall", "flops")}
    lines = [
        f"Python {platform.python_version()}, torch {version('torch')}, one thread; {options.episodes} students of 80 "
        f"steps. One static run: {unit['seconds']:.2f} s, {unit['wall']:.2f} s with its start, "
        f"{unit['flops'] / 1e9:.1f} GFLOPs (medians of {len(static)}).",
        "",
        "| learner | students side by side | time, in static runs | wall clock of the commands | FLOPs | "
        "student steps a second |",
        "|---|---|---|---|---|---|",
    ]
    for learner in LEARNERS:
        for students in (options.students, 1):
            row = rows.known[learned(learner, students, options.episodes)]
            shares = [f"{row[what] / unit[what]:.1f}" for what in ("seconds", "wall", "flops")]
            lines.append(f"| {learner} | {students} | {' | '.join(shares)} | {row['steps'] / row['seconds']:.1f} |")
    row = rows.known[f"steps-{options.students}"]
    times = f"{row['ratio']:.2f} times as many ({row['least']:.2f} to {row['most']:.2f})"
    lines += [
        "",
        f"Steps alone: a cohort of {options.students} takes {row['cohort']:.0f} student steps a second, and its "
        f"students in turn {row['alone']:.0f}: {times}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/price"))
    parser.add_argument("--teacher", type=Path, help="a run of the demo's finetune; OUTPUT/teacher by default")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--students", type=int, default=16, help="in a cohort")
    parser.add_argument("--seeds", type=int, default=5, help="static runs")
    parser.add_argument("--pairs", type=int, default=10, help="of steps")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.teacher is None:
        options.teacher = options.output / "teacher"
        command = [sys.executable, "-m", "ackd", *TEACHER.split(), "--output", str(options.teacher), "--resume"]
        subprocess.run(command, check=True)
    rows = Rows(options.output / "price.jsonl")
    for name, words in planned(options):
        if name not in rows.known:
            rows.add(name, taken(words.split(), options.output / "runs" / name))
            print(f"{name}: {rows.known[name]['wall']:.1f} s", flush=True)
    if f"steps-{options.students}" not in rows.known:
        rows.add(f"steps-{options.students}", paired(options))
    said = page(rows, options)
    (options.output / "price.md").write_text(said + "\n", encoding="utf-8")
    print(f"\n{said}")


if __name__ == "__main__":
    main()
