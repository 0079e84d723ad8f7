"""`ackd evaluate`: policies against each other, on the same students, data and dropout."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ackd.cli.options import RunOptions, progress
from ackd.cli.workers import GROWING as FREE
from ackd.cli.workers import OnItsDevice, WorkerOptions
from ackd.config import DataConfig, EpisodeConfig, StudentConfig, part

if TYPE_CHECKING:
    from tqdm import tqdm

    from ackd.agents.card import Card
    from ackd.cli.cells import Cell, Cells, Filled, Found
    from ackd.runs.folder import RunFolder

    Do = Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]]  # from jobs to each of them with its answer

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
    "reward_from",
    "dev_examples",
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
    "workers",
    *FREE,
)


class Row(NamedTuple):
    """A task of the table."""

    setting: dict[str, Any]  # as `ACKD/Distill-v0` takes it
    first_seed: int


@dataclass(frozen=True, kw_only=True)
class Evaluate(DataConfig, StudentConfig, EpisodeConfig, WorkerOptions, RunOptions):
    """Distil a student for each task, policy and seed, and tabulate what came out.

    With --resume a table grows: name more policies, tasks or seeds, and only what is missing is trained. Several
    --workers train a student each at a time.
    """

    tasks: tuple[str, ...] = ()
    """One or more tasks."""
    teachers: tuple[str, ...] = ()
    """A teacher for each task, in the same order, or several of them with commas between (SMALL,LARGE); with
    --instances, the folder where the names of the set start."""
    instances: str | None = None
    """Instead of --tasks: a JSON file of settings, or a set that comes along (embedded-v1, glue-small-v1). Each of its
    instances is a row of the table, with seeds of its own."""
    splits: tuple[str, ...] = ()
    """The instances of these splits; all if none is named."""
    policies: tuple[str, ...] = ("labels", "all", "random", "scheduled")
    """Rules, types joined by +, saved policies (folder, or name in the store; with :refine after it to go on learning
    in the run), bandits that learn in the run (ucb, thompson, exp3), lookahead (tries every subset ahead of each
    decision), best-static (the best fixed subset, searched with other seeds first), or preset: with a published method
    and its options behind colons (preset:kd, preset:dynamickd-data:keep=0.1). NAME=POLICY calls one of them NAME in
    tables, pictures and folders (agent=runs/train/policy)."""
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
        from ackd.cli.arms import called
        from ackd.cli.cells import Cells
        from ackd.reporting.tables import tables

        if self.serves():
            return
        policies = dict(map(called, self.policies))
        teachers = [one for those in self.teachers for one in those.split(",")]
        folder = self.run_folder((*teachers, self.student, self.data, self.cache, *policies.values()))
        self._check()
        self.check_workers(self.device)
        cells = Cells(self)
        learned = self._check_each(cells)
        folder.begin("evaluate", asdict(self), growing=GROWING)
        started = time.perf_counter()
        rows = self._fill(folder, cells)
        text = tables(rows, learned)
        folder.write_text("table.md", text + "\n")
        folder.write_json(RESULT, self._result(rows, time.perf_counter() - started))
        print(text)
        for name, policy in policies.items():
            if "/" in policy:
                print(f"policy:  {policy if policy == name else f'{name} is {policy}'}")
        print(f"pictures: ackd report {folder.path}\ncurves:  tensorboard --logdir {folder.path}")

    def _check(self) -> None:
        from ackd.cli.arms import called
        from ackd.errors import InputError
        from ackd.runs.folder import group_folder

        policies = [called(policy)[0] for policy in self.policies]
        if bool(self.tasks) == (self.instances is not None):
            raise InputError("say what to evaluate on: --tasks and --teachers, or --instances, and not both")
        if self.instances is not None and len(self.teachers) > 1:
            raise InputError("with --instances, --teachers is the one folder where the teachers' names start")
        if self.instances is None and len(self.tasks) != len(self.teachers):
            raise InputError(
                f"{len(self.tasks)} tasks and {len(self.teachers)} teachers were given: name one for each task, or "
                "several of one task with commas between"
            )
        for what, names in (("task", self.tasks), ("policy", policies)):
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"the {what} {name!r} is named twice: name each once")
        folders: dict[Path, str] = {}
        for policy in policies:
            other = folders.setdefault(group_folder(Path(), "", policy), policy)
            if other != policy:
                raise InputError(f"{other!r} and {policy!r} would share a folder: rename one")
        for name in ("seeds", "search_seeds", "search_tries"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: at least 1 is needed")

    def _check_each(self, cells: Cells) -> dict[str, Card]:
        """Refuses tasks and policies that cannot be evaluated; what is known of those that were learned."""
        from ackd.errors import InputError

        for name in cells.rows:
            env = cells.env(name)
            if env.distillation.reference is None:
                raise InputError(f"{name} has no teacher that the students could be compared with: name one")
            arms = [cells.arm(policy, env.knowledge) for policy in self.policies]
            for policy in self.policies:
                cells.env(name, policy)
        return {one.name: one.learned.card for one in arms if one.learned is not None}

    def rows(self) -> dict[str, Row]:
        """What each row of the table is about, by its name."""
        from ackd.envs.instance_files import over, read_instances

        given = part(self, DataConfig, StudentConfig, EpisodeConfig)
        if self.instances is None:
            pairs = zip(self.tasks, self.teachers, strict=True)
            return {
                task: Row({"task": task, "teacher": teachers.split(","), **given}, self.first_seed)
                for task, teachers in pairs
            }
        place = Path(self.teachers[0]) if self.teachers else None
        data = Path(given.pop("data")) if self.data else given.pop("data")
        chosen = [
            one
            for split in self.splits or (None,)
            for one in read_instances(self.instances, teachers=place, data=data, split=split)
        ]
        return {one.name: Row(over(given, one.setting), one.seeds[0]) for one in chosen}

    def _fill(self, folder: RunFolder, cells: Cells) -> list[dict[str, Any]]:
        """The table, whose rows are written as they come, in their order."""
        from ackd.cli.arms import SEARCHED, called
        from ackd.cli.cells import Search
        from ackd.ledger import Ledger

        rows: list[dict[str, Any]] = []
        total = Ledger()
        steps = sum(cells.env(task).distillation.steps for task in cells.rows) * len(self.policies) * self.seeds
        with (
            progress(steps, "evaluate") as bar,
            self._doing(cells, bar) as do,
            (folder.path / "table.csv").open("w", newline="", encoding="utf-8") as file,
        ):
            (folder.path / RESULT).unlink(missing_ok=True)  # now that there is who makes another
            written = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            written.writeheader()
            searches = [Search(task) for task in cells.rows if any(called(one)[1] == SEARCHED for one in self.policies)]
            found = {job.task: answer for job, answer in do(searches)}
            for filled in self._filled(folder.path, cells, self._jobs(cells, found), do):
                rows.append(filled.row)
                written.writerow(filled.row)
                file.flush()
                total.add(filled.ledger)
        folder.write_json("ledger.json", total.as_dict())
        return rows

    def _jobs(self, cells: Cells, found: Mapping[str, Found]) -> list[Cell]:
        """All of them, in the order of the table."""
        from ackd.cli.arms import SEARCHED, called
        from ackd.cli.cells import Cell

        return [
            Cell(task, policy, k, row.first_seed + k, found[task] if called(policy)[1] == SEARCHED else None)
            for task, row in cells.rows.items()
            for policy in self.policies
            for k in range(self.seeds)
        ]

    def _filled(self, folder: Path, cells: Cells, jobs: Sequence[Cell], do: Do) -> Iterator[Filled]:
        """The cells in their order; each group of a task and policy is recorded in a folder of its own."""
        from ackd.cli.arms import called
        from ackd.envs.recorder import Recorder
        from ackd.runs.folder import group_folder

        with ExitStack() as stack:
            for job, filled in do(jobs):
                if not job.place:
                    stack.close()
                    place = group_folder(folder, job.task, called(job.policy)[0])
                    place.mkdir(parents=True, exist_ok=True)
                    recorder = stack.enter_context(closing(Recorder(place, cells.env(job.task, job.policy).knowledge)))
                for note in filled.notes:
                    recorder.write(note)
                yield filled

    @contextmanager
    def _doing(self, cells: Cells, bar: tqdm[Any]) -> Iterator[Do]:
        """Who does the jobs: this process, one after the other, or workers."""
        from ackd.cli.cells import Cells, Filled, Search
        from ackd.distributed.jobs import run_jobs

        if not self.remote or self.backend == "dummy":
            cells.on_decision = bar.update
            yield lambda jobs: ((job, cells.do(job)) for job in jobs)
            return

        def count(job: Any, answer: Any) -> None:
            if isinstance(answer, Filled):
                bar.update(answer.row["steps"])

        cell = max(cells.env(task).decisions for task in cells.rows) + 2  # decisions, and what is measured
        search = cell * self.search_tries * self.search_seeds
        with closing(
            self.start_workers(OnItsDevice(partial(Cells, alike=cells.identities()), self), self.device)
        ) as crew:
            yield lambda jobs: run_jobs(
                crew,
                jobs,
                seconds=self.step_timeout * (search if any(isinstance(job, Search) for job in jobs) else cell),
                on_answer=count,
            )

    def _result(self, cells: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        return {
            "task": list(dict.fromkeys(cell["task"] for cell in cells)),
            "policy": list(dict.fromkeys(cell["policy"] for cell in cells)),
            "seed": sorted({cell["seed"] for cell in cells}),
            "steps": self.steps or sorted({cell["steps"] for cell in cells}),
            "seconds": round(seconds, 3),
            "reward_from": list(dict.fromkeys(cell["reward_from"] for cell in cells)),
            "cells": cells,
        }
