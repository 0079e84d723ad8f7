"""`ackd evaluate`: policies against each other, on the same students, data and dropout."""

from __future__ import annotations

import csv
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.cli.options import DataOptions, OutputOptions, StudentOptions, progress

if TYPE_CHECKING:
    from ackd.envs.distillation import DistillationEnv
    from ackd.runs import RunFolder

COLUMNS = (
    "task",
    "policy",
    "seed",
    "metric",
    "dev_score",
    "teacher_score",
    "reward",
    "flops_share",
    "steps",
    "seconds",
    "error",
)


@dataclass(kw_only=True)
class Evaluate(DataOptions, StudentOptions, OutputOptions):
    """Distil a student for each task, policy and seed, and tabulate what came out."""

    tasks: tuple[str, ...]
    """One or more tasks."""
    teachers: tuple[str, ...]
    """A teacher for each task, in the same order."""
    policies: tuple[str, ...] = ("labels", "all", "random", "scheduled")
    """Rules, types joined by +, or folders of saved policies."""
    seeds: int = 3
    """Students for each task and policy; all policies get the same ones."""
    first_seed: int = 1000
    """The first of the seeds; apart from those that agents are usually trained on."""

    def run(self) -> None:
        """Fills the table cell by cell."""
        from ackd.cli.episodes import policy_of
        from ackd.envs.make import distill
        from ackd.errors import InputError
        from ackd.runs import RunFolder

        folder = RunFolder(
            self.output,
            overwrite=self.overwrite,
            inputs=(*self.teachers, self.student, self.data, self.cache, *self.policies),
        )
        if len(self.tasks) != len(self.teachers):
            raise InputError(
                f"{len(self.tasks)} tasks and {len(self.teachers)} teachers were given: name one teacher for each task"
            )
        for what, names in (("task", self.tasks), ("policy", self.policies)):
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"the {what} {name!r} is named twice: name each once")
        if self.seeds < 1:
            raise InputError(f"at least 1 seed is needed, got {self.seeds}")
        envs = {
            task: distill(task=task, teacher=teacher, **self.data_settings(), **self.student_settings())
            for task, teacher in zip(self.tasks, self.teachers, strict=True)
        }
        for env in envs.values():
            for policy in self.policies:
                policy_of(policy, env)
        folder.begin("evaluate", asdict(self))
        started = time.perf_counter()
        cells = self._fill(folder, envs)
        table = tabulate(cells)
        folder.write_text("table.md", table + "\n")
        folder.write_json("result.json", self._result(cells, time.perf_counter() - started))
        print(table)
        for policy in self.policies:
            if "/" in policy:
                print(f"policy:  {policy}")
        print(f"curves:  tensorboard --logdir {folder.path}")

    def _fill(self, folder: RunFolder, envs: dict[str, DistillationEnv]) -> list[dict[str, Any]]:
        from ackd.cli.episodes import policy_of, run_episode
        from ackd.cli.results import episode_result
        from ackd.envs.recording import Recording
        from ackd.ledger import Ledger

        cells: list[dict[str, Any]] = []
        total = Ledger()
        episodes = len(envs) * len(self.policies) * self.seeds
        with (
            (folder.path / "table.csv").open("w", newline="", encoding="utf-8") as file,
            progress(episodes * self.steps, "evaluate") as bar,
        ):
            rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            rows.writeheader()
            for task, env in envs.items():
                for policy in self.policies:
                    place = folder.path / task / policy.strip("/.").replace("/", "_")
                    place.mkdir(parents=True)
                    with closing(Recording(env, place, on_decision=bar.update)) as recording:
                        for seed in range(self.first_seed, self.first_seed + self.seeds):
                            began = time.perf_counter()
                            run_episode(recording, policy_of(policy, env, seed=seed), seed=seed)
                            seconds = round(time.perf_counter() - began, 3)
                            cell = episode_result(recording, policy=policy, seconds=seconds)
                            cells.append(cell)
                            rows.writerow(cell)
                            file.flush()
                        total.add(recording.ledger)
        folder.write_json("ledger.json", total.as_dict())
        return cells

    def _result(self, cells: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        return {
            "task": list(self.tasks),
            "policy": list(self.policies),
            "seed": list(range(self.first_seed, self.first_seed + self.seeds)),
            "steps": self.steps,
            "seconds": round(seconds, 3),
            "cells": cells,
        }


def tabulate(cells: list[dict[str, Any]]) -> str:
    """A Markdown table: a row for each task and policy, mean over seeds with the smallest and largest."""
    lines = [
        "| task | policy | metric | dev score, mean (min to max) | teacher | reward | FLOPs | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, policy in dict.fromkeys((cell["task"], cell["policy"]) for cell in cells):
        group = [cell for cell in cells if (cell["task"], cell["policy"]) == (task, policy)]
        scores = [cell["dev_score"] for cell in group if cell["dev_score"] is not None]
        score = "diverged"
        if scores:
            score = f"{sum(scores) / len(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"
            if len(scores) < len(group):
                score += f", {len(group) - len(scores)} diverged"
        reward, flops, seconds = (
            sum(cell[name] for cell in group) / len(group) for name in ("reward", "flops_share", "seconds")
        )
        first = group[0]
        lines.append(
            f"| {task} | {policy} | {first['metric']} | {score} | {first['teacher_score']:.2f} "
            f"| {reward:.3f} | {flops:.0%} | {seconds:.1f} | {len(group)} |"
        )
    return "\n".join(lines)
