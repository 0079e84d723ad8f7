"""`ackd evaluate`: policies against each other, on the same students, data and dropout."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.cli.options import DataOptions, RunOptions, StudentOptions, progress

if TYPE_CHECKING:
    from ackd.cli.arms import Arm
    from ackd.envs.distillation import DistillationEnv
    from ackd.ledger import Ledger
    from ackd.runs import RunFolder

RESULT = "result.json"

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
    "search_steps",
    "seconds",
    "error",
)
GROWING = (
    "tasks",
    "teachers",
    "splits",
    "policies",
    "seeds",
    "first_seed",
    "checkpoint_seconds",
    "search_tries",
    "search_seeds",
)
SEARCHED = "best-static"


@dataclass(kw_only=True)
class Evaluate(DataOptions, StudentOptions, RunOptions):
    """Distil a student for each task, policy and seed, and tabulate what came out.

    With --resume a table grows: name more policies, tasks or seeds, and only what is missing is trained.
    """

    tasks: tuple[str, ...] = ()
    """One or more tasks."""
    teachers: tuple[str, ...] = ()
    """A teacher for each task, in the same order; with --instances, the folder where the names of the set start."""
    instances: str | None = None
    """Instead of --tasks: a JSON file of settings, or a set that comes along (embedded-v1, glue-small-v1). Each of its
    instances is a row of the table, with seeds of its own."""
    splits: tuple[str, ...] = ()
    """The instances of these splits; all if none is named."""
    policies: tuple[str, ...] = ("labels", "all", "random", "scheduled")
    """Rules, types joined by +, saved policies (folder, or name in the store; with :refine after it to go on learning
    in the run), bandits that learn in the run (ucb, thompson, exp3), lookahead (tries every subset ahead of each
    decision), best-static (the best fixed subset, searched with other seeds first)."""
    seeds: int = 3
    """Students for each task and policy; all policies get the same ones."""
    first_seed: int = 1000
    """The first of the seeds; apart from those that agents are usually trained on."""
    search_tries: int = 16
    """Subsets that best-static tries at most."""
    search_seeds: int = 1
    """Students for each of them, from seed 0 on."""

    def run(self) -> None:
        """Fills the table cell by cell."""
        from ackd.cli.tables import tables

        folder = self.run_folder((*self.teachers, self.student, self.data, self.cache, *self.policies))
        self._check()
        envs, seeds = self._environments()
        self._check_compared(envs)
        arms = {task: self._arms(env.knowledge) for task, env in envs.items()}
        folder.begin("evaluate", asdict(self), growing=GROWING)
        (folder.path / RESULT).unlink(missing_ok=True)
        started = time.perf_counter()
        cells = self._fill(folder, envs, arms, seeds)
        learned = {one.name: one.learned.card for one in next(iter(arms.values())) if one.learned is not None}
        text = tables(cells, learned)
        folder.write_text("table.md", text + "\n")
        folder.write_json(RESULT, self._result(cells, time.perf_counter() - started))
        print(text)
        for policy in self.policies:
            if "/" in policy:
                print(f"policy:  {policy}")
        print(f"pictures: ackd report {folder.path}\ncurves:  tensorboard --logdir {folder.path}")

    def _check(self) -> None:
        from ackd.errors import InputError

        if bool(self.tasks) == (self.instances is not None):
            raise InputError("say what to evaluate on: --tasks and --teachers, or --instances, and not both")
        if self.instances is not None and len(self.teachers) > 1:
            raise InputError("with --instances, --teachers is the one folder where the teachers' names start")
        if self.instances is None and len(self.tasks) != len(self.teachers):
            raise InputError(
                f"{len(self.tasks)} tasks and {len(self.teachers)} teachers were given: name one teacher for each task"
            )
        for what, names in (("task", self.tasks), ("policy", self.policies)):
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"the {what} {name!r} is named twice: name each once")
        for name in ("seeds", "search_seeds", "search_tries"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: at least 1 is needed")

    def _check_compared(self, envs: Mapping[str, DistillationEnv]) -> None:
        from ackd.errors import InputError

        for name, env in envs.items():
            if env.distillation.reference is None:
                raise InputError(f"{name} has no teacher that the students could be compared with: name one")

    def _environments(self) -> tuple[dict[str, DistillationEnv], dict[str, int]]:
        """Each row's environment and its first seed, by the row's name."""
        from ackd.envs.instance_files import read_instances
        from ackd.envs.make import distill

        given = self.data_settings() | self.student_settings()
        if self.instances is None:
            pairs = zip(self.tasks, self.teachers, strict=True)
            envs = {task: distill(task=task, teacher=teacher, **given) for task, teacher in pairs}
            return envs, dict.fromkeys(envs, self.first_seed)
        place = Path(self.teachers[0]) if self.teachers else None
        data = Path(given.pop("data")) if self.data else given.pop("data")
        chosen = [
            one
            for split in self.splits or (None,)
            for one in read_instances(self.instances, teachers=place, data=data, split=split)
        ]
        return (
            {one.name: distill(**{**given, **one.setting}) for one in chosen},
            {one.name: one.seeds[0] for one in chosen},
        )

    def _arms(self, knowledge: Sequence[str]) -> list[Arm]:
        """What each name stands for; what is found by a search is still to be found."""
        from ackd.agents.rules import rule
        from ackd.cli.arms import Arm, arm

        searched = Arm(SEARCHED, lambda env, seed: rule("labels", env.knowledge))
        return [searched if name == SEARCHED else arm(name, knowledge) for name in self.policies]

    def _fill(
        self,
        folder: RunFolder,
        envs: dict[str, DistillationEnv],
        arms: dict[str, list[Arm]],
        seeds: dict[str, int],
    ) -> list[dict[str, Any]]:
        from ackd.ledger import Ledger

        cells: list[dict[str, Any]] = []
        total = Ledger()
        episodes = len(envs) * len(self.policies) * self.seeds
        with (
            (folder.path / "table.csv").open("w", newline="", encoding="utf-8") as file,
            progress(sum(env.distillation.steps for env in envs.values()) * episodes // len(envs), "evaluate") as bar,
        ):
            rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            rows.writeheader()
            for task, env in envs.items():
                for one in arms[task]:
                    place = folder.path / task / one.name.strip("/.").replace("/", "_").replace(":", "_")
                    place.mkdir(parents=True, exist_ok=True)
                    for cell in self._group(one, env, place, seeds[task], bar.update, total):
                        cell["task"] = task
                        cells.append(cell)
                        rows.writerow(cell)
                        file.flush()
        folder.write_json("ledger.json", total.as_dict())
        return cells

    def _group(
        self,
        one: Arm,
        env: DistillationEnv,
        place: Path,
        first_seed: int,
        on_decision: Callable[[int], object],
        total: Ledger,
    ) -> Iterator[dict[str, Any]]:
        """The cells of one task and policy."""
        from ackd.agents.search import Lookahead
        from ackd.cli.episodes import run_episode
        from ackd.cli.results import episode_result
        from ackd.envs.recording import Recording

        searched = 0
        if one.name == SEARCHED:
            one, searched = self._search(env, place)
        env = env.variant(**{"reward_every": env.decisions, **one.settings})
        with closing(Recording(env, place, on_decision=on_decision)) as recording:
            for seed in range(first_seed, first_seed + self.seeds):
                journal = None if one.forks else self.journal(place / "checkpoint" / str(seed))
                env.distillation.journal = journal
                policy = one.make(env, seed)
                run_episode(recording, policy, seed=seed, learner=one.learner(policy))
                # of the ledger, which knows what was spent before a run was resumed
                seconds = round(sum(env.distillation.ledger.seconds.values()), 3)
                if isinstance(policy, Lookahead):
                    searched = policy.probes * env.decision_interval
                cell = episode_result(recording, policy=one.name, seconds=seconds, search_steps=searched)
                # what a part of the reward split says is another measure, not to be set beside the others'
                yield cell if env.reward_share == 1 else cell | {"reward": None}
                if journal is not None:
                    journal.finish()
            env.distillation.journal = None
            total.add(recording.ledger)

    def _search(self, env: DistillationEnv, place: Path) -> tuple[Arm, int]:
        """The best fixed subset on seeds of its own, and the optimizer steps that finding it took."""
        from ackd.agents.search import best_static
        from ackd.cli.arms import Arm

        env = env.variant(reward_every=env.decisions)
        journal = env.distillation.journal = self.journal(place / "checkpoint" / "search")
        found = best_static(env, range(self.search_seeds), tries=self.search_tries)
        journal.finish()
        policy = found.rule(env.knowledge)
        return Arm(SEARCHED, lambda env, seed: policy), found.episodes * env.distillation.steps

    def _result(self, cells: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        return {
            "task": list(dict.fromkeys(cell["task"] for cell in cells)),
            "policy": list(self.policies),
            "seed": sorted({cell["seed"] for cell in cells}),
            "steps": self.steps,
            "seconds": round(seconds, 3),
            "cells": cells,
        }
