"""Compares published systems with their controls on real tasks, with paired seeds; small enough for two CPU cores.

    python benchmarks/systems.py run --data GLUE --models MODELS [--only data objective ...]
    python benchmarks/systems.py table

GLUE is a folder in the hub's layout; MODELS contains teachers fine-tuned from the same encoder, as `minilm-l6-TASK`.
Each cell (a system with a seed) is a file in `build/systems`. Existing cells are not run again, so the benchmark can be
stopped at any time, and several processes may run different experiments. `benchmarks/miniplm.py` compares language
models in the same way.

Dev is only read for the table; grids are scored on the reward split.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ackd import Distillation, Selection, distill, models, prepare
from ackd.costs import CostTracker
from ackd.federation.clients import ClientSplit
from ackd.models import StudentFactory
from ackd.reporting.statistics import paired_difference
from ackd.tasks import Split, Task
from ackd.teachers import ModelTeacher, Revised
from ackd.types import Batch, ModelDims, OutputRequest, Outputs, Teacher

SEEDS = range(5)
SETTING: dict[str, Any] = {
    "student_layers": 2,
    "steps": 100,
    "batch_size": 16,
    "lr": 2e-4,
    "max_length": 48,
    "max_examples": 3000,
    "reward_examples": 512,
}
INTERVAL = 20


@dataclass(frozen=True)
class Arm:
    """One system as `prepare` makes it; `teachers` are names of models."""

    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    teachers: Sequence[str] = ("large",)


@dataclass(frozen=True)
class Experiment:
    """Some systems on some tasks; differences are taken to the baseline."""

    tasks: Sequence[str]
    arms: Mapping[str, Any]
    baseline: str
    cell: Callable[[Place, str, str, int], dict[str, float]]


@dataclass(frozen=True)
class Place:
    """Where data, models and results are."""

    data: str
    models: Path
    folder: Path

    def teacher(self, task: str, name: str = "large") -> str:
        """The folder of a teacher; one that is made here is made once."""
        if name == "large" and task != "digits":
            return str(self.models / f"minilm-l6-{task}")
        path = self.folder / "teachers" / f"{name}-{task}"
        if not (path / "result.json").is_file():
            if task == "digits":
                more = ["finetune", "--task", task, "--seed", "0", "--lr", "3e-3", "--epochs", "40"]
            else:
                options = "--student-layers 3 --steps 400 --batch-size 16 --lr 2e-4 --max-length 48 --policy labels"
                source = ["--teacher", self.teacher(task), "--data", self.data]
                more = ["distill", "--task", task, *source, *options.split()]
            subprocess.run([sys.executable, "-m", "ackd", *more, "--output", str(path), "--overwrite"], check=True)
        return str(path)


def trained(distillation: Distillation, seed: int) -> dict[str, float]:
    """The dev score of a student in percent, and what its training cost if every answer is computed."""
    distill(distillation, _selection(distillation), seed=seed, interval=INTERVAL)
    return judged(distillation) | {
        "gflops": distillation.counts.price / 1e9,
        **{name: value / 1e9 for name, value in distillation.costs.accounts.items()},
    }


def _selection(distillation: Distillation) -> Callable[[int], Selection]:
    return distillation.staged if distillation.stages else lambda done: Selection()


def judged(distillation: Distillation) -> dict[str, float]:
    """The dev score, in percent."""
    (name, split), *_ = distillation.task.dev.items()
    return {"score": 100 * distillation.evaluate(split, name).score}


def prepared(place: Place, task: str, arm: Arm, **changes: Any) -> Distillation:
    """A system, ready to train."""
    setting = SETTING | changes
    if task == "digits":
        setting |= {"max_length": 66, "student_layers": None, "student": str(small_config(place)), "lr": 3e-3}
    else:
        setting |= {"data": place.data}
    teachers = [place.teacher(task, name) for name in arm.teachers]
    return prepare(task=task, teacher=teachers, preset=arm.preset, options=arm.options, **setting)


def small_config(place: Place) -> Path:
    """The student of the digits."""
    path = place.folder / "small.json"
    if not path.is_file():
        config = models.small_config(64, 10, layers=2, width=32, heads=2, dropout=0.1).to_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    return path


def plainly(
    arms: Mapping[str, Arm], mrpc: Mapping[str, Any] | None = None, **changes: Any
) -> Callable[[Place, str, str, int], dict[str, float]]:
    """Cells that train a student under a preset; what is changed, and what else for mrpc, whose texts are long."""

    def cell(place: Place, task: str, arm: str, seed: int) -> dict[str, float]:
        own = mrpc if mrpc is not None and task == "mrpc" else {}
        return trained(prepared(place, task, arms[arm], **{**changes, **own}), seed)

    return cell


RATES = (1e-4, 2e-4, 4e-4, 8e-4)
ASIDE = 100  # a seed outside all tables


def at_its_rate(
    arms: Mapping[str, Arm], folder: str, **changes: Any
) -> Callable[[Place, str, str, int], dict[str, float]]:
    """Cells as `plainly` has them, each system at the learning rate that does best on the reward split."""

    def cell(place: Place, task: str, arm: str, seed: int) -> dict[str, float]:
        path = place.folder / folder / task / arm / "rate.txt"
        if not path.is_file():
            losses = {}
            for lr in RATES:
                tried = prepared(place, task, arms[arm], **changes, lr=lr)
                distill(tried, _selection(tried), seed=ASIDE, interval=INTERVAL)
                losses[lr] = tried.evaluate(tried.task.reward, "reward").loss
            print(folder, task, arm, losses, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(min(losses, key=losses.__getitem__)))
        lr = float(path.read_text())
        return plainly(arms, **changes, lr=lr)(place, task, arm, seed) | {"lr": lr}

    return cell


class Mistaken:
    """A teacher that confuses its likeliest class with the next one on a share of the examples, always the same."""

    def __init__(self, teacher: Teacher, share: float) -> None:
        self.teacher, self.share = teacher, share

    @property
    def shape(self) -> ModelDims:
        """The teacher's."""
        return self.teacher.shape

    @property
    def fingerprint(self) -> str:
        """Not for a cache."""
        return f"mistaken {self.share} {self.teacher.fingerprint}"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The teacher's answer with the mistakes in it."""
        answer = self.teacher(batch, needs, costs)
        assert answer.logits is not None
        wrong = torch.tensor([np.random.default_rng([7, int(one)]).random() < self.share for one in batch.ids])
        first, second = answer.logits.topk(2).indices.unbind(-1)
        logits, rows = answer.logits.clone(), torch.arange(len(wrong))
        logits[rows, first], logits[rows, second] = answer.logits[rows, second], answer.logits[rows, first]
        return Outputs(torch.where(wrong[:, None], logits, answer.logits))

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """The teacher's."""
        return self.teacher.flops(needs, size, length)


REVISION = {
    "labels": Arm("kd", {"alpha": 0.0}),
    "kd": Arm("kd"),
    "label-revision": Arm("kd"),
    "label-revision, published re-run": Arm("label-revision", {"form": "mse"}),
}


def revision(place: Place, task: str, arm: str, seed: int) -> dict[str, float]:
    """A student of a teacher that is wrong on purpose on a fifth of the training examples."""
    distillation = prepared(place, task, REVISION[arm])
    mistaken: Teacher = Mistaken(ModelTeacher(models.load_model(place.teacher(task))), 0.2)
    distillation.teachers = (Revised(mistaken) if arm == "label-revision" else mistaken,)
    return trained(distillation, seed)


GRID = tuple(itertools.product((1.0, 4.0, 8.0), (0.1, 0.5, 0.9)))  # tau, alpha
UNTUNED = (1.0, 0.5)
TUNING = ("before", "untuned", "tuned")


def tuning(split: str) -> Callable[[Place, str, str, int], dict[str, float]]:
    """Cells of a client whose model learns from another client's, on examples that both may see."""

    def cell(place: Place, task: str, arm: str, seed: int) -> dict[str, float]:
        whole = prepared(place, task, Arm("kd"))
        parts = ClientSplit.parse(split)(whole.task.train.labels, 3, np.random.default_rng(seed))
        local, other, public = (whole.task.train.select(part) for part in parts)
        mine, theirs = (on_labels(whole, part, seed) for part in (local, other))
        if arm == "before":
            return judged(mine)
        teacher = ModelTeacher(theirs.student.model)
        make = models.from_layers(mine.student.model, mine.student.model.config.num_hidden_layers)
        best: tuple[float, Distillation] | None = None
        for tau, alpha in [UNTUNED] if arm == "untuned" else GRID:
            tried = on_outputs(whole, teacher, make, public, tau, alpha)
            distill(tried, tried.staged, seed=seed, interval=INTERVAL)
            score = tried.evaluate(tried.task.reward, "reward").score
            if best is None or score > best[0]:
                best = score, tried
        assert best is not None
        return judged(best[1])

    return cell


def on_labels(whole: Distillation, part: Split, seed: int) -> Distillation:
    """A client's own model, trained on its part."""
    task = Task(whole.task.spec, part, whole.task.reward, whole.task.dev)
    alone = Distillation(task, [], _students(whole), steps=60, batch_size=16, lr=SETTING["lr"])
    distill(alone, Selection(), seed=seed, interval=INTERVAL)
    return alone


def _students(whole: Distillation) -> StudentFactory:
    whole.reset(0)
    return models.from_layers(whole.student.model, whole.student.model.config.num_hidden_layers)


def on_outputs(
    whole: Distillation, teacher: Teacher, make: StudentFactory, part: Split, tau: float, alpha: float
) -> Distillation:
    """A model that learns from another's outputs."""
    from ackd.presets import preset

    task = Task(whole.task.spec, part, whole.task.reward, whole.task.dev)
    method = preset("kd", teacher.shape, [teacher.shape], tau=tau, alpha=alpha)
    return Distillation(
        task,
        [teacher],
        make,
        lambda: preset("kd", teacher.shape, [teacher.shape], tau=tau, alpha=alpha).knowledge,
        stages=method.stages,
        steps=60,
        batch_size=16,
        lr=SETTING["lr"],
        scale_steps=0,
    )


def _kept(score: str, train_on: str = "kept") -> Arm:
    return Arm("dynamickd-data", {"keep": 0.1, "score": score, "train_on": train_on})


DATA = {
    "labels": Arm("kd", {"alpha": 0.0}),
    "all examples": Arm("dynamickd-data", {"keep": 1.0}),
    # of two classes, entropy, margin and confidence rank alike
    "10 %, entropy": _kept("entropy"),
    "10 %, random": _kept("random"),
    "10 %, entropy, labels of all": _kept("entropy", "all"),
}
LONGER = {name: DATA[name] for name in ("all examples", "10 %, entropy", "10 %, random")}
OBJECTIVE = {
    "static": Arm("dynamickd-objective", {"weights": "static"}),
    "uncertainty": Arm("dynamickd-objective"),
    "uncertainty, reversed": Arm("dynamickd-objective", {"reverse": True}),
}
BOTH = ("small", "large")
ADOPTION = {
    "small teacher": Arm("kd", teachers=("small",)),
    "large teacher": Arm("kd"),
    **{name: Arm("dynamickd-teacher", {"adoption": name}, BOTH) for name in ("average", "hard", "soft", "instance")},
}
REFFAKD = {
    "labels": Arm("kd", {"alpha": 0.0}),
    "label-smoothing": Arm("label-smoothing", {}, ()),
    "reffakd": Arm("reffakd", {}, ()),
    "kd": Arm("kd"),
}
PAIR = ("sst2", "mrpc")
EXPERIMENTS = {
    "data": Experiment(PAIR, DATA, "all examples", plainly(DATA, {"steps": 150}, batch_size=32, steps=600)),
    "data-longer": Experiment(
        ("sst2",), LONGER, "all examples", plainly(LONGER, batch_size=32, steps=1800, max_examples=9000)
    ),
    "data-tuned": Experiment(
        ("sst2",), LONGER, "all examples", at_its_rate(LONGER, "data-tuned", batch_size=32, steps=600)
    ),
    "objective": Experiment(PAIR, OBJECTIVE, "static", plainly(OBJECTIVE)),
    "adoption": Experiment(PAIR, ADOPTION, "average", plainly(ADOPTION)),
    "reffakd": Experiment(("digits",), REFFAKD, "labels", plainly(REFFAKD, steps=600, batch_size=64)),
    "revision": Experiment(PAIR, REVISION, "kd", revision),
    "tuning-iid": Experiment(("sst2",), dict.fromkeys(TUNING), "untuned", tuning("iid")),
    "tuning-dirichlet": Experiment(("sst2",), dict.fromkeys(TUNING), "untuned", tuning("dirichlet:0.3")),
}


def run(place: Place, names: Sequence[str]) -> None:
    """Every cell that is not there yet."""
    for name in names:
        one = EXPERIMENTS[name]
        for task, seed, arm in itertools.product(one.tasks, SEEDS, one.arms):
            path = place.folder / name / task / arm.replace("/", "_") / f"{seed}.json"
            if path.is_file():
                continue
            result = one.cell(place, task, arm, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".part")
            half.write_text(json.dumps(result))
            half.replace(path)
            print(name, task, arm, seed, {key: round(value, 2) for key, value in result.items()}, flush=True)


def table(folder: Path) -> str:
    """All that is there, with the mean difference to the baseline over paired seeds and its 95 % interval."""
    lines = [
        "| experiment | task | system | dev, mean (min to max) | less the baseline [95 %] | GFLOPs | share | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in EXPERIMENTS.items():
        for task in one.tasks:
            found = {arm: _cells(folder / name / task / arm) for arm in one.arms}
            base = found[one.baseline]
            lines += [_row(name, task, arm, cells, base) for arm, cells in found.items() if cells]
    return "\n".join(lines)


def _cells(folder: Path) -> dict[int, dict[str, float]]:
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _row(
    name: str, task: str, arm: str, cells: Mapping[int, Mapping[str, float]], base: Mapping[int, Mapping[str, float]]
) -> str:
    scores = [cell["score"] for cell in cells.values()]
    both = sorted(cells.keys() & base.keys())
    difference = ""
    if len(both) > 1 and cells is not base:
        pairs = (np.array([[which[seed]["score"]] for seed in both]) for which in (cells, base))
        difference = f"{paired_difference(*pairs):+.2f}"
    costs = [np.mean([cell.get("gflops", np.nan) for cell in which.values()]) for which in (cells, base)]
    cost = f"{costs[0]:.0f} | {costs[0] / costs[1]:.0%}" if np.isfinite(costs).all() else " | "
    shown = f"{np.mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"
    return f"| {name} | {task} | {arm} | {shown} | {difference} | {cost} | {len(scores)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="*", choices=tuple(EXPERIMENTS), default=tuple(EXPERIMENTS))
    parser.add_argument("--data", default="../shared/glue")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--folder", type=Path, default=Path("build/systems"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(options.threads)
    if options.what == "table":
        print(table(options.folder))
    else:
        run(Place(options.data, options.models, options.folder), options.only)


if __name__ == "__main__":
    main()
