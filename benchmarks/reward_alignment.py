"""Which measure on the reward split ranks selections in the same order as dev? A reward should use this measure.

    python benchmarks/reward_alignment.py                                           the generated tasks
    python benchmarks/reward_alignment.py --settings sst2 mrpc --data GLUE --models MODELS
    python benchmarks/reward_alignment.py --settings polarity --seeds 1 --output build/try

In each setting, students train under fixed selections and two-stage schedules, from the same start and on the same
batches. All arms of a seed are one cohort. Then every possible measure for rewards is taken on the reward split, and
the score on dev. The quality of a measure is its Kendall's tau with dev over the arms. Dev influences nothing.

Each setting has its own teacher, which has not seen the reward split; it is made once under OUTPUT/teachers. A student
learns from `examples` of its teacher's training examples, drawn by the seed. If a setting has wrong labels, the reward
split has them too, also drawn by the seed. GLUE is a folder in the hub's layout; MODELS contains `minilm-l6`.

Each seed of a setting is a line of OUTPUT/cells.jsonl. A second run computes lines that are missing or have other arms
or settings, and writes OUTPUT/table.md from all lines of the requested settings and seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from ackd import Distillation, Selection, prepare
from ackd.cohort.cohort import Cohort
from ackd.mdp.episode import Episode
from ackd.mdp.rewards import GAPS, LOWER, GapClosed
from ackd.tasks import Split, Task
from ackd.types import EvalResult

Array = NDArray[np.float64]
MEASURES = {**GAPS, "labels alone": "label_correlation"}
SHARED = Path(os.environ.get("ACKD_SHARED", "../shared"))


def chosen(*names: str, labels: float = 1.0, **weights: float) -> Selection:
    """The named types with weight 1, further ones with a weight of their own."""
    return Selection({**dict.fromkeys(names, 1.0), **weights}, labels)


TYPES = ("logits", "hidden", "attention")
REST = ("hidden", "attention")
# of each arm the stages, which are equally long
ARMS: dict[str, Sequence[Selection]] = {
    "labels": [chosen()],
    **{name: [chosen(name)] for name in TYPES},
    "logits+hidden": [chosen("logits", "hidden")],
    "logits+attention": [chosen("logits", "attention")],
    "hidden+attention": [chosen(*REST)],
    "all": [chosen(*TYPES)],
    "logits x 4": [chosen(logits=4.0)],
    "logits, labels x .25": [chosen("logits", labels=0.25)],
    "logits, no labels": [chosen("logits", labels=0.0)],
    "logits+hidden, no labels": [chosen("logits", "hidden", labels=0.0)],
    "hidden+attention, labels x .25": [chosen(*REST, labels=0.25)],
    "hidden+attention, no labels": [chosen(*REST, labels=0.0)],
    "all, no labels": [chosen(*TYPES, labels=0.0)],
    "all, labels x .25": [chosen(*TYPES, labels=0.25)],
    "all, labels x 4": [chosen(*TYPES, labels=4.0)],
    "all, logits x .25": [chosen(*REST, logits=0.25)],
    "all, logits x 4": [chosen(*REST, logits=4.0)],
    "all, hidden x 4": [chosen("logits", "attention", hidden=4.0)],
    "all, attention x 4": [chosen("logits", "hidden", attention=4.0)],
    "hidden+attention, then all": [chosen(*REST), chosen(*TYPES)],
    "hidden+attention, then all, labels x .25": [chosen(*REST, labels=0.25), chosen(*TYPES, labels=0.25)],
    "hidden+attention, then all, no labels": [chosen(*REST, labels=0.0), chosen(*TYPES, labels=0.0)],
    "hidden+attention, then logits": [chosen(*REST), chosen("logits")],
    "hidden+attention, then logits, labels x .25": [chosen(*REST, labels=0.25), chosen("logits", labels=0.25)],
    "hidden+attention, then labels": [chosen(*REST), chosen()],
    "hidden, then logits": [chosen("hidden"), chosen("logits")],
    "logits, then hidden+attention": [chosen("logits"), chosen(*REST)],
    "logits, then labels": [chosen("logits"), chosen()],
    "all, then logits": [chosen(*TYPES), chosen("logits")],
    "all, then labels": [chosen(*TYPES), chosen()],
    "labels, then all": [chosen(), chosen(*TYPES)],
    "all, labels x .25, then x 4": [chosen(*TYPES, labels=0.25), chosen(*TYPES, labels=4.0)],
}

STRONG = "--epochs 8 --lr 1e-3 --batch-size 64"
WEAK = "--epochs 3 --lr 1e-3 --batch-size 64"
GLUE = "--epochs 2 --lr 1e-4"  # followed by the options of the setting's data


@dataclass(frozen=True)
class Setting:
    """What students learn, and from whom."""

    task: str
    steps: int = 160
    layers: int = 2
    teacher: str = STRONG
    taught: str | None = None  # the teacher's task, if it differs
    wrong: float = 0.0  # share of wrong labels in train and reward split
    examples: int = 1500
    batch_size: int = 32
    lr: float = 5e-4
    max_examples: int | None = None  # for student and teacher, before the reward split is set aside
    reward_examples: int = 256
    max_length: int = 128
    together: int = 64  # most students of a cohort, limited by memory


def generated(task: str) -> dict[str, Setting]:
    """The settings of a generated task."""
    return {
        task: Setting(task),
        f"{task}, 80 steps": Setting(task, steps=80),
        f"{task}, 1 layer": Setting(task, layers=1),
        f"{task}, 1 layer, 80 steps": Setting(task, steps=80, layers=1),
        f"{task}, wrong labels": Setting(task, wrong=0.3),
        f"{task}, weak teacher": Setting(task, teacher=WEAK),
        f"{task}, foreign teacher": Setting(task, taught="tally" if task == "polarity" else "polarity"),
    }


REAL = Setting(
    "sst2",
    steps=200,
    teacher=GLUE,
    examples=1000,
    batch_size=16,
    lr=2e-4,
    max_examples=3000,
    reward_examples=512,
    max_length=48,
    together=12,
)
GENERATED = {**generated("polarity"), **generated("tally")}
SETTINGS = {**GENERATED, "sst2": REAL, "mrpc": replace(REAL, task="mrpc", max_length=64)}


def wrong(split: Split, share: float, classes: int, rng: np.random.Generator) -> Split:
    """The split with another class's label on that share of its examples."""
    count = round(share * len(split))
    turned = copy.copy(split)
    turned.labels = split.labels.copy()
    indices = rng.permutation(len(split))[:count]
    turned.labels[indices] = (turned.labels[indices] + rng.integers(1, classes, count)) % classes
    return turned


def drawn(task: Task, setting: Setting, seed: int) -> Task:
    """The task with the examples and labels of a seed."""
    rng = np.random.default_rng([seed, 2024])
    kept = np.sort(rng.permutation(len(task.train))[: setting.examples])
    train, reward = (
        wrong(split, setting.wrong, task.spec.num_labels, rng) for split in (task.train.select(kept), task.reward)
    )
    return replace(task, train=train, reward=reward)


def data_of(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """What student and teacher agree on."""
    names = ("max_examples", "reward_examples", "max_length")
    return {"data": None if setting in GENERATED.values() else options.data} | {
        name: getattr(setting, name) for name in names
    }


def teacher_of(setting: Setting, options: argparse.Namespace) -> str:
    """The setting's teacher, which is made if it is not there."""
    agreed = [str(value) for option, value in data_of(setting, options).items() if option != "data"]
    task = setting.taught or setting.task
    name = "_".join([task, *setting.teacher.replace("--", "").split(), *agreed])
    folder = options.output / "teachers" / name
    if not (folder / "result.json").is_file():
        given = [*setting.teacher.split(), "--task", task, "--output", str(folder), "--overwrite"]
        for option, value in data_of(setting, options).items():
            given += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
        if setting not in GENERATED.values():
            given += ["--model", str(options.models / "minilm-l6")]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        subprocess.run([sys.executable, "-m", "ackd", "finetune", *given], check=True, env=environment)
    return str(folder)


def measures(eval_result: EvalResult, teacher: EvalResult) -> dict[str, float | None]:
    """Each measure of the reward split; None if the student diverged."""
    if not eval_result.finite:
        return dict.fromkeys(MEASURES.values())
    taught = Episode(None, teacher, steps=1, decision_interval=1)
    known: dict[str, float | None] = {on: GapClosed(on=on).measured(taught, eval_result) for on in GAPS.values()}
    return {**known, "label_correlation": eval_result.label_correlation}


def cell(setting: Setting, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """All arms of a seed, and their teacher."""
    source = teacher_of(setting, options)
    began = time.perf_counter(), time.process_time()
    distillation = prepare(
        task=setting.task,
        teacher=source,
        student_layers=setting.layers,
        steps=setting.steps,
        batch_size=setting.batch_size,
        lr=setting.lr,
        **data_of(setting, options),
    )
    distillation.task = drawn(distillation.task, setting, seed)
    (dev, split), *_ = distillation.task.dev.items()
    teacher = distillation.measure_teacher(distillation.task.reward, "reward")
    names, arms = list(ARMS), {}
    for start in range(0, len(names), setting.together):
        some = names[start : start + setting.together]
        cohort = trained(distillation, [ARMS[name] for name in some], seed)
        eval_results = cohort.evaluate(distillation.task.reward, "reward")
        for name, eval_result, told in zip(some, eval_results, cohort.evaluate(split, dev), strict=True):
            arms[name] = {"dev": 100 * told.score if told.finite else None, **measures(eval_result, teacher)}
    return {
        "teacher": {"dev": 100 * distillation.measure_teacher(split, dev).score, **measures(teacher, teacher)},
        "arms": arms,
        "seconds": round(time.perf_counter() - began[0], 1),
        "processor_seconds": round(time.process_time() - began[1], 1),
    }


def trained(distillation: Distillation, arms: Sequence[Sequence[Selection]], seed: int) -> Cohort:
    """Students of one seed at the end of their schedules."""
    cohort = Cohort(distillation, len(arms))
    cohort.reset([seed] * len(arms))
    half = cohort.steps // 2
    cohort.advance([stages[0] for stages in arms], half)
    cohort.advance([stages[-1] for stages in arms], cohort.steps - half)
    return cohort


def described(setting: Setting) -> dict[str, Any]:
    """All that a cell depends on but its seed, as JSON holds it."""
    arms = {name: [[dict(one.weights), one.labels] for one in stages] for name, stages in ARMS.items()}
    return {"setting": asdict(setting), "arms": arms}


def known(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The lines that are whole and were made with the present arms and settings, by setting and seed."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # an incomplete last line of a killed run
            continue
        if row["name"] in SETTINGS and row["of"] == described(SETTINGS[row["name"]]):
            found[row["name"], row["seed"]] = row
    return found


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every line that is asked for, in order; what is missing is made."""
    path = options.output / "cells.jsonl"
    options.output.mkdir(parents=True, exist_ok=True)
    rows = known(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    for name in options.settings:
        for seed in range(options.seeds):
            if (name, seed) not in rows:
                made = cell(SETTINGS[name], seed, options)
                row = {"name": name, "seed": seed, "of": described(SETTINGS[name]), "threads": options.threads, **made}
                rows[name, seed] = row
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{name}, seed {seed}: {row['seconds']} s", flush=True)
    return [rows[name, seed] for name in options.settings for seed in range(options.seeds)]


@dataclass(frozen=True)
class Found:
    """One setting over its seeds; an arm of which a student diverged is left out."""

    arms: Sequence[str]
    dev: Array  # [seeds, arms]
    signed: Mapping[str, Array]  # each [seeds, arms], higher is better
    teacher: float  # dev score of the teacher
    seconds: float  # duration of a seed

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Found:
        """From the lines of one setting."""
        arms = [arm for arm in ARMS if all(None not in row["arms"][arm].values() for row in rows)]

        def table(what: str) -> Array:
            return np.array([[row["arms"][arm][what] for arm in arms] for row in rows], float)

        signed = {name: -table(on) if on in LOWER else table(on) for name, on in MEASURES.items()}
        seconds = statistics.mean(row["seconds"] for row in rows)
        return cls(arms, table("dev"), signed, statistics.mean(row["teacher"]["dev"] for row in rows), seconds)

    def tau(self, name: str) -> float:
        """Kendall's tau-b over all arms, measure and dev each a mean over the seeds."""
        return tau(self.signed[name].mean(0), self.dev.mean(0))

    def tau_of_better_half(self, name: str) -> float:
        """The same among the better half of the arms by dev."""
        dev = self.dev.mean(0)
        best = np.argsort(-dev, kind="stable")[: (len(dev) + 1) // 2]
        return tau(self.signed[name].mean(0)[best], dev[best])

    def tau_of_one_seed(self, name: str) -> float:
        """The measure from one seed against the mean of dev over all of them, on average."""
        return float(np.mean([tau(values, self.dev.mean(0)) for values in self.signed[name]]))

    def lost(self, name: str) -> float:
        """Dev points from the best arm to the one that the measure ranks first."""
        dev = self.dev.mean(0)
        return float(dev.max() - dev[self.signed[name].mean(0).argmax()])


def tau(one: Array, other: Array) -> float:
    """Kendall's tau-b; 0 where one side has no order."""
    return float(kendalltau(one, other).statistic) if np.ptp(one) and np.ptp(other) else 0.0


COLUMNS: dict[str, Callable[[Found, str], float]] = {
    "Kendall's tau over all arms": Found.tau,
    "Kendall's tau among the better half by dev": Found.tau_of_better_half,
    "Kendall's tau, measured on one seed": Found.tau_of_one_seed,
    "Dev points lost by the arm that it ranks first": Found.lost,
}


def report(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """The tables."""
    found = {name: Found.of([row for row in rows if row["name"] == name]) for name in options.settings}
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "scipy"))
    command = " ".join(["python benchmarks/reward_alignment.py", *map(_quoted, sys.argv[1:])])
    lines = [
        "# Which measure of the reward split ranks selections as dev does",
        f"    {command}",
        f"{len(ARMS)} arms, seeds 0 to {options.seeds - 1}; {versions}, python {platform.python_version()}, "
        f"{options.threads} threads.",
    ]
    for title, what in COLUMNS.items():
        table = [f"| {title} | mean | {' | '.join(found)} |", "|---" * (2 + len(found)) + "|"]
        for name in MEASURES:
            values = [what(one, name) for one in found.values()]
            table.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in (np.mean(values), *values)) + " |")
        lines.append("\n".join(table))
    lines.append(_settings(found))
    return "\n\n".join(lines) + "\n"


def _settings(found: Mapping[str, Found]) -> str:
    table = [
        "| setting | teacher on dev | labels | all | best arm | | arms left out | seconds a seed |",
        "|---" * 8 + "|",
    ]
    for name, one in found.items():
        dev = dict(zip(one.arms, one.dev.mean(0).tolist(), strict=True))
        best = max(dev, key=dev.__getitem__)
        some = " | ".join(f"{dev[arm]:.2f}" if arm in dev else "" for arm in ("labels", "all", best))
        left = len(ARMS) - len(one.arms)
        table.append(f"| {name} | {one.teacher:.2f} | {some} | {best} | {left} | {one.seconds:.0f} |")
    return "\n".join(table)


def _quoted(text: str) -> str:
    return f"'{text}'" if " " in text else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(GENERATED), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default=str(SHARED / "glue"))
    parser.add_argument("--models", type=Path, default=SHARED / "models")
    parser.add_argument("--output", type=Path, default=Path("build/reward_alignment"))
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(options.threads)
    text = report(run(options), options)
    (options.output / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
