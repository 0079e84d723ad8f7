"""Is learned selection worth its cost? Compares it with rules, searched schedules and loss balancing, at equal cost.

    python benchmarks/selection.py demo     one setting with headroom: every learner has 64 students, agent seeds 0 to 2
    python benchmarks/selection.py varied   one policy over different settings, tested on settings that it has not seen
    python benchmarks/selection.py glue     real tasks, a pretrained encoder: agents trained on them, and other agents

All arms of a seed are students of one cohort, with the same start and the same batches. Arms that decide once per phase
(loss balancing) are a separate cohort from the same seed, because they have other observations. All scores are on dev,
which influences nothing. Each seed of a setting is a line of OUTPUT/cells.jsonl; each learned policy is a folder of
OUTPUT/policies. Existing results are kept, and missing arms of a cell are added. The tables are printed, and written to
OUTPUT/demo.md, OUTPUT/varied.md and OUTPUT/glue.md. The teachers of `glue` are made under OUTPUT/glue/teachers; none
has seen the 512 examples for rewards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.envs.cohort import CohortEnv
from ackd.envs.distillation import DistillationEnv
from ackd.envs.instance_files import read_instances
from ackd.envs.make import distill
from ackd.experiments.policies import Arm, arm
from ackd.mdp.action_spaces import make_choice
from ackd.reporting.statistics import paired_difference
from ackd.types import LABELS

Array = NDArray[np.float64]
DATA = Path(os.environ.get("ACKD_SHARED", "../shared"))
RULES = (
    "labels",
    "all",
    "scheduled",
    "all,labels:0.25",
    "all,labels:0",
    "hidden+attention,then,all",
    "hidden+attention,labels:0.25,then,all,labels:0.25",
)
BALANCERS = ("magnitude", "uncertainty", "rlw", "dwa", "famo")
STUDENT = {"student_layers": 2, "max_examples": 1500, "steps": 80, "decision_interval": 10, "lr": 1e-3}
STUDENTS, TOGETHER = 64, 16
LEARNERS = ("residual", "best-schedule", "pbt")
VARIED = ("probe-rule", "cem", "residual")
SHARED = 192  # students of each learner over the training settings
CARRIED = ("default", "probe-rule:default")
# for each task: options of its teacher, and data of its students
REAL = {
    "sst2": ("--epochs 2 --max-examples 8000", {"max_length": 48}),
    "mrpc": ("--epochs 4", {"max_length": 64}),
    "stsb": ("--epochs 3", {"max_length": 64}),
}
TEACHER = "--lr 5e-5 --batch-size 32 --reward-examples 512"
REAL_STUDENT = {
    "student_layers": 2,
    "max_examples": 1000,
    "reward_examples": 512,
    "steps": 300,
    "batch_size": 16,
    "lr": 2e-4,
    "decision_interval": 38,
}


@dataclass(frozen=True)
class Setting:
    """Where students are compared.

    Args:
        name: in the tables.
        options: as `ACKD/Distill-v0` takes them.
        seeds: of the students.
    """

    name: str
    options: Mapping[str, Any]
    seeds: Sequence[int]


Plan = list[tuple[Setting, dict[str, str]]]  # settings, each with its policies by their names in the table


class Cells:
    """What students come to, by setting, seed and arm.

    That is the score on dev and the correlation with the labels of the reward split, both in percent, the return, and
    the share of the FLOPs of `all`.

    Args:
        path: where they are kept, a line for each time that arms were tried.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # an incomplete last line of a killed run
                continue
            self.known.setdefault((row["setting"], row["seed"]), {}).update(row["arms"])

    def add(self, setting: str, seed: int, arms: Mapping[str, dict[str, float]]) -> None:
        """Keeps what came of some arms."""
        self.known.setdefault((setting, seed), {}).update(arms)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"setting": setting, "seed": seed, "arms": dict(arms)}) + "\n")

    def scores(self, setting: Setting, name: str, what: str = "dev") -> Array | None:
        """[seeds], of an arm that has all of them."""
        rows = [self.known.get((setting.name, seed), {}).get(name) for seed in setting.seeds]
        return np.array([row[what] for row in rows if row is not None]) if all(rows) else None


def fill(cells: Cells, setting: Setting, arms: Mapping[str, str]) -> None:
    """Distils what is missing of a setting.

    Args:
        cells: what is known.
        setting: where.
        arms: policies by the names in the table.
    """
    env: DistillationEnv | None = None
    for seed in setting.seeds:
        missing = [name for name in arms if name not in cells.known.get((setting.name, seed), {})]
        if not missing:
            continue
        if env is None:
            env = distill(choice="weights", **setting.options)
        started = time.perf_counter()
        made = {name: arm(arms[name], env.knowledge) for name in missing}
        for decisions in (4, None):
            group = {name: one for name, one in made.items() if one.settings.get("decisions", 4) == decisions}
            if group:
                side = env.variant(decisions=decisions, reward_every=setting.options["steps"])
                cells.add(setting.name, seed, together(side, group, seed))
        print(f"{setting.name}, seed {seed}: {len(missing)} arms, {time.perf_counter() - started:.0f} s", flush=True)


def together(env: DistillationEnv, arms: Mapping[str, Arm], seed: int) -> dict[str, dict[str, float]]:
    """A student under each arm, all in one cohort."""
    cohort = CohortEnv([env], len(arms), paired=True)
    ended: list[dict[str, float]] = []

    def watch(_: CohortEnv, rewards: NDArray[np.float32], infos: Sequence[dict[str, Any]]) -> None:
        training = cohort.cohort
        if training.steps_done < training.steps:
            return
        name, split = next(iter(training.distillation.task.dev.items()))
        held_out = training.evaluate(training.distillation.task.reward, "reward")
        for student, eval_result in enumerate(training.evaluate(split, name)):
            one = {"dev": 100 * eval_result.score, "labels": 100 * held_out[student].label_correlation}
            one["reward"] = math.fsum(cohort.trajectories[student].record().rewards)
            ended.append(one | {"flops": training.counts.prices[student] / training.counts.price_of_all})

    cohort.watch = watch
    cohort.seed(seed)
    observation: Any = cohort.reset()
    acting = []
    for one in arms.values():
        choice = make_choice(one.settings.get("choice", "subset"), (LABELS, *env.knowledge), env.signals.k_max)
        acting.append((one.make(env.variant(choice=choice), seed), choice))
    states: list[Any] = [None] * len(acting)
    for _ in range(env.decisions):
        actions = []
        for i, (policy, choice) in enumerate(acting):
            own = {name: value[i] for name, value in observation.items()}
            action, states[i] = policy.predict(own, states[i], deterministic=True)
            actions.append(env.choice.action(choice.selection(action)))
        observation, *_ = cohort.step(np.stack(actions))
    return dict(zip(arms, ended, strict=True))


def learned(output: Path, learner: str, seed: int, arguments: Sequence[str]) -> str:
    """The folder of a learned policy, which is trained if it is not there."""
    folder = output / "policies" / f"{learner}-{seed}"
    if not (folder / "result.json").exists():
        ackd("train", "--agent", learner, "--seed", str(seed), *arguments, "--output", str(folder), "--resume")
    return str(folder)


def ackd(*command: str) -> None:
    """Runs a command, and says so."""
    print("ackd " + " ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", "ackd", *command], check=True)


def options_of(setting: Mapping[str, Any]) -> list[str]:
    """On the command line."""
    return [text for name, value in setting.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def demo(options: argparse.Namespace) -> Plan:
    """The setting of the demo, and two others that its policies are carried to."""
    teacher = str(options.teachers / "polarity-strong")
    student = STUDENT | {"lr": options.lr}
    base = {"task": "polarity", "teacher": teacher, **student}
    seeds = range(1000, 1000 + options.seeds)
    settings = [
        Setting("2 layers, 80 steps", base, seeds),
        Setting("2 layers, 160 steps", base | {"steps": 160, "decision_interval": 20}, seeds),
        Setting("1 layer, 80 steps", base | {"student_layers": 1}, seeds),
    ]
    train = ["--task", "polarity", "--teacher", teacher, *options_of(student)]
    train += ["--episodes", str(STUDENTS), "--students", str(TOGETHER)]
    arms = {name: name for name in (*RULES, *BALANCERS)}
    learners = LEARNERS if options.learners is None else options.learners
    for learner in learners:
        for seed in range(options.agent_seeds):
            arms[f"{learner}-{seed}"] = learned(options.output / "demo", learner, seed, train)
    for seed in range(options.agent_seeds if "residual" in learners else 0):
        arms[f"replay of residual-{seed}"] = f"replay:{arms[f'residual-{seed}']}"
    arms |= {name: name for name in options.carried}
    return [(setting, arms) for setting in settings]


def varied(options: argparse.Namespace) -> Plan:
    """Settings that no policy has seen; what learns, learns in the others of `varied-v1`.

    With `--split train` it is those others, on seeds that no learning takes, and dev is not looked at.
    """
    first = 200 if options.split == "train" else 0
    there = [
        one for name in options.sets for one in read_instances(name, teachers=options.teachers, split=options.split)
    ]
    seeds = [range(one.seeds[0] + first, one.seeds[0] + first + options.seeds) for one in there]
    settings = [Setting(one.name, one.setting, own) for one, own in zip(there, seeds, strict=True)]
    arms = {name: name for name in (*RULES, *options.balancers)}
    for learner in VARIED if options.learners is None else options.learners:
        train = ["--instances", "varied-v1", "--teachers", str(options.teachers)]
        train += ["--episodes", str(options.students or SHARED), "--students", str(TOGETHER)]
        for seed in range(options.agent_seeds):
            folder = learned(options.output / "varied", learner, seed, train)
            arms[f"{learner}-{seed}"] = folder
            if learner in ("residual", "probe-rule"):  # they observe more than the progress
                arms[f"replay of {learner}-{seed}"] = f"replay:{folder}"
            if learner == "cem":
                arms[f"cem-{seed} with the probe's rule"] = f"probe-rule:{folder}"
    arms |= {name: name for name in options.carried}
    return [(setting, arms) for setting in settings]


def glue(options: argparse.Namespace) -> Plan:
    """Real tasks; an agent of each learner learns in each."""
    plan: Plan = []
    for task, (how, seen) in REAL.items():
        if options.tasks and task not in options.tasks:
            continue
        output = options.output / "glue" / "policies" / task
        teacher = str(options.output / "glue" / "teachers" / task)
        shared = {"task": task, "data": options.data, **seen}
        if not (Path(teacher) / "result.json").exists():
            ackd("finetune", *options_of(shared), *how.split(), *TEACHER.split(), "--output", teacher, "--overwrite",
                 "--model", str(options.models / "minilm-l6"))  # fmt: skip
        base = shared | {"teacher": teacher, **REAL_STUDENT}
        train = [*options_of(base), "--episodes", str(options.students or STUDENTS), "--students", str(TOGETHER)]
        arms = {name: name for name in (*RULES, *BALANCERS, *options.carried)}
        for learner in options.learners if options.learners is not None else ("residual", "best-schedule"):
            for seed in range(options.agent_seeds):
                arms[f"{learner}-{seed}"] = learned(output, learner, seed, train)
        plan.append((Setting(task, base, range(1000, 1000 + options.seeds)), arms))
    return plan


def difference(values: Array, others: Array) -> str:
    """The paired difference and its 95 % interval."""
    return f"{paired_difference(values[:, None], others[:, None]):+.2f}"


def table(cells: Cells, setting: Setting, arms: Iterable[str]) -> str:
    """Each arm's mean on dev, and its paired differences to `all` and to the rule with the best mean."""
    scores = {name: cells.scores(setting, name) for name in arms}
    known = {name: values for name, values in scores.items() if values is not None}
    rules = [name for name in RULES if name in known and name != "labels"]
    best = max(rules, key=lambda name: float(known[name].mean()))
    lines = [
        f"{setting.name}: {len(setting.seeds)} seeds; the best rule is `{best}`.",
        "",
        "| policy | dev | against `all` | against the best rule | FLOPs |",
        "|---|---|---|---|---|",
    ]
    for name, values in known.items():
        flops = cells.scores(setting, name, "flops")
        assert flops is not None
        apart = [difference(values, known[other]) if name != other else "" for other in ("all", best)]
        lines.append(f"| `{name}` | {values.mean():.2f} | {apart[0]} | {apart[1]} | {flops.mean():.0%} |")
    return "\n".join(lines)


def closed(score: Array, fixed: Array, rng: np.random.Generator, resamples: int = 4000) -> tuple[float, float, float]:
    """The share of the gap between the single best fixed choice and the best of each setting, and its 95 % interval.

        mean over settings of (score - single)  /  mean of (best of each - single)

    The single best and each setting's best are chosen on one half of the seeds and read on the other, both ways, so
    that luck does not count as knowledge. The interval draws settings anew.

    Args:
        score: [settings, seeds].
        fixed: [choices, settings, seeds].
        rng: of the resampling.
        resamples: how many.
    """
    halves = np.arange(score.shape[1]) % 2 == 0
    gained, room = [], []
    for chosen, read in ((halves, ~halves), (~halves, halves)):
        means, there = fixed[:, :, chosen].mean(2), fixed[:, :, read].mean(2)
        single = there[means.mean(1).argmax()]
        best = there[means.argmax(0), np.arange(there.shape[1])]
        gained.append(score[:, read].mean(1) - single)
        room.append(best - single)
    above, width = np.mean(gained, axis=0), np.mean(room, axis=0)
    rows = rng.integers(0, len(above), (resamples, len(above)))
    shares = above[rows].mean(1) / np.maximum(width[rows].mean(1), 0.05)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(above.mean() / width.mean()), float(low), float(high)


def over_settings(cells: Cells, settings: Sequence[Setting], arms: Iterable[str], what: str = "dev") -> str:
    """Each arm over all settings: its mean, the gap it closed, and its worst difference to `all`."""
    everything = {name: [cells.scores(setting, name, what) for setting in settings] for name in arms}
    known = {name: np.array(rows) for name, rows in everything.items() if all(row is not None for row in rows)}
    fixed = np.stack([known[name] for name in RULES])
    lines = [
        f"{len(settings)} settings of {len(settings[0].seeds)} seeds; intervals over settings.",
        "",
        f"| policy | {what} | against `all` | against `scheduled` | gap closed | worst against `all` |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in known.items():
        apart = [difference(scores.mean(1), known[one].mean(1)) if name != one else "" for one in ("all", "scheduled")]
        share, low, high = closed(scores, fixed, np.random.default_rng(0))
        worst = (scores - known["all"]).mean(1).min()
        gap = f"{share:.0%} [{low:.0%}, {high:.0%}]"
        lines.append(f"| `{name}` | {scores.mean():.2f} | {apart[0]} | {apart[1]} | {gap} | {worst:+.2f} |")
    lines += ["", "| setting | " + " | ".join(f"`{name}`" for name in known) + " |", "|---" * (len(known) + 1) + "|"]
    for place, setting in enumerate(settings):
        means = " | ".join(f"{scores[place].mean():.1f}" for scores in known.values())
        lines.append(f"| {setting.name} | {means} |")
    return "\n".join(lines)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("demo", "varied", "glue"))
    parser.add_argument("--teachers", type=Path, default=Path("build/teachers"), help="made by benchmarks/varied.py")
    parser.add_argument("--output", type=Path, default=Path("build/selection"))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--agent-seeds", type=int, default=3)
    parser.add_argument("--learners", nargs="*", help="instead of all; none if no name follows")
    parser.add_argument("--balancers", nargs="*", choices=BALANCERS, default=BALANCERS, help="in varied")
    parser.add_argument("--sets", nargs="+", default=["varied-v3"], help="of settings, in varied")
    parser.add_argument("--split", choices=("unseen", "train"), default="unseen", help="of them")
    parser.add_argument("--students", type=int, help="that a learner has, in varied and glue")
    parser.add_argument("--tasks", nargs="*", choices=tuple(REAL), help="of glue, instead of all")
    parser.add_argument("--data", default=str(DATA / "glue"), help="a folder in the hub's layout")
    parser.add_argument("--models", type=Path, default=DATA / "models", help="holds minilm-l6")
    parser.add_argument("--carried", nargs="*", default=CARRIED, help="policies that were learned elsewhere")
    parser.add_argument("--settings", type=int, help="only the first so many")
    parser.add_argument("--lr", type=float, default=STUDENT["lr"], help="of the students of demo")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = {"demo": demo, "varied": varied, "glue": glue}[options.what](options)[: options.settings]
    cells = Cells(options.output / options.what / "cells.jsonl")
    for setting, arms in plan:
        fill(cells, setting, arms)
    if options.what == "varied":
        what = "labels" if options.split == "train" else "dev"
        text = over_settings(cells, [setting for setting, _ in plan], plan[0][1], what)
    else:
        text = "\n\n".join(table(cells, setting, arms) for setting, arms in plan)
    name = options.what if options.split == "unseen" else f"{options.what}-{options.split}"
    (options.output / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
