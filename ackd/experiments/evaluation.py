"""Compares policies on the same students, data and dropout."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.agents.card import Card
from ackd.agents.store import pinned
from ackd.config import DataConfig, EpisodeConfig, StudentConfig, checked, part, renamed
from ackd.costs import CostTracker
from ackd.distributed.jobs import run_jobs
from ackd.envs.instance_files import Instance, over
from ackd.envs.recorder import Recorder
from ackd.errors import InputError
from ackd.experiments.beginning import Beginning
from ackd.experiments.cells import Cell, Cells, Filled, Found, Row, Search
from ackd.experiments.objects import placed, shared
from ackd.experiments.options import EvaluationConfig
from ackd.experiments.policies import SEARCHED, called, name_of
from ackd.experiments.progress import Bar, progress, say
from ackd.experiments.tracking import curves_of, means
from ackd.experiments.workers import GROWING as FREE
from ackd.experiments.workers import OnItsDevice
from ackd.reporting.tables import tables
from ackd.runs.curves import Curves
from ackd.runs.folder import group_folder

if TYPE_CHECKING:
    from pandas import DataFrame

Do = Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]]  # from jobs to pairs (job, answer)
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


@dataclass(frozen=True)
class Table:
    """The result of an evaluation.

    Args:
        rows: one row for each task, policy and seed: scores in percent, rewards, shares of FLOPs, seconds.
        learned: the model cards of the learned policies.
        folder: the run's folder; None if the run was not saved.
    """

    rows: Sequence[Mapping[str, Any]]
    learned: Mapping[str, Card]
    folder: Path | None = None

    def report(self) -> str:
        """Scores by task and over all tasks with intervals, and the cost of training agents, in Markdown."""
        return tables([dict(row) for row in self.rows], self.learned)

    def to_pandas(self) -> DataFrame:
        """The rows as a data frame."""
        from pandas import DataFrame

        return DataFrame(list(self.rows))


class Evaluation:
    """Trains a student for each task, policy and seed.

    Args:
        config: options of the evaluation.
        rows: the settings by row name; if None, the tasks or instances in `config`.
        policies: policies given as objects, by their names in `config.policies`.

    Raises:
        InputError: if an option in `config` cannot be used.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        *,
        rows: Mapping[str, Row] | None = None,
        policies: Mapping[str, object] | None = None,
    ) -> None:
        self.config, self.policies = config, policies or {}
        self.by_names = rows is None and not self.policies
        policies_named = dict(map(called, config.policies))
        teachers = [one for those in config.teachers for one in those.split(",")]
        self.folder = config.run_folder(
            (*teachers, config.student, config.data, config.cache, *policies_named.values())
        )
        recorded = self.folder.recorded("policies") or ()
        self.config = config = replace(config, policies=tuple(pinned(one, recorded) for one in config.policies))
        self._check(given=rows is not None)
        config = self._placed = replace(config, device=config.check_workers(config.device))
        if config.remote and (self.policies or rows is not None):
            raise InputError("workers take settings and policies by their names: leave workers away, or give names")
        self.cells = Cells(config, rows=rows, policies=self.policies)

    def run(self) -> Table:
        """Trains the students and fills the table."""
        learned = self._check_each()
        self.folder.begin("evaluate", asdict(self.config), growing=GROWING, by_names=self.by_names)
        self._say()
        started = time.perf_counter()
        table = Table(self._fill(), learned, self.folder.path)
        self.folder.write_text("table.md", table.report() + "\n")
        self.folder.write_json(RESULT, self._result(table.rows, time.perf_counter() - started))
        return table

    def _say(self) -> None:
        """Prints data, length and models of each row of the table."""
        each = len(self.config.policies) * self.config.seeds
        how: dict[str, Any] = {"students": each, "workers": self.config.count}
        begins = {name: Beginning.of(self.cells.env(name).distillation, **how) for name in self.cells.rows}
        several = [f"{name}: {one.line}" for name, one in begins.items()]
        said = several if len(begins) > 1 else [one.lines for one in begins.values()]
        say("\n".join(said), quiet=self.config.quiet)

    def _check(self, *, given: bool) -> None:
        self.config.trackers()
        policies = [called(policy)[0] for policy in self.config.policies]
        if not given and bool(self.config.tasks) == (self.config.instances is not None):
            raise InputError("say what to evaluate on: --tasks and --teachers, or --instances, and not both")
        if self.config.instances is not None and len(self.config.teachers) > 1:
            raise InputError("with --instances, --teachers is the one folder where the teachers' names start")
        if not given and self.config.instances is None and len(self.config.tasks) != len(self.config.teachers):
            raise InputError(
                f"{len(self.config.tasks)} tasks and {len(self.config.teachers)} teachers were given: name one for "
                "each task, or several of one task with commas between"
            )
        for what, names in (("task", self.config.tasks), ("policy", policies)):
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"the {what} {name!r} is named twice: name each once")
        folders: dict[Path, str] = {}
        for policy in policies:
            other = folders.setdefault(group_folder(Path(), "", policy), policy)
            if other != policy:
                raise InputError(f"{other!r} and {policy!r} would share a folder: rename one")
        for name in ("seeds", "search_seeds", "search_tries"):
            if getattr(self.config, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self.config, name)}: at least 1 is needed")

    def _check_each(self) -> dict[str, Card]:
        """Checks that all tasks and policies can be evaluated; returns the cards of learned policies."""
        for name in self.cells.rows:
            env = self.cells.env(name)
            if env.distillation.reference is None:
                raise InputError(f"{name} has no teacher that the students could be compared with: name one")
            arms = [self.cells.arm(policy, env.knowledge) for policy in self.config.policies]
            for policy in self.config.policies:
                self.cells.env(name, policy)
        return {one.name: one.learned.card for one in arms if one.learned is not None}

    def _fill(self) -> list[dict[str, Any]]:
        """Fills the table; each row is written as soon as it is complete, in order."""
        rows: list[dict[str, Any]] = []
        total = CostTracker()
        steps = (
            sum(self.cells.env(task).distillation.steps for task in self.cells.rows)
            * len(self.config.policies)
            * self.config.seeds
        )
        with (
            progress(steps, "evaluate", quiet=self.config.quiet) as bar,
            self._doing(bar) as do,
            (self.folder.path / "table.csv").open("w", newline="", encoding="utf-8") as file,
        ):
            (self.folder.path / RESULT).unlink(missing_ok=True)  # this run writes a new one
            written = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            written.writeheader()
            searches = [
                Search(task)
                for task in self.cells.rows
                if any(called(one)[1] == SEARCHED for one in self.config.policies)
            ]
            found = {job.task: answer for job, answer in do(searches)}
            for filled in self._filled(self._jobs(found), do):
                rows.append(filled.row)
                written.writerow(filled.row)
                file.flush()
                total.add(filled.costs)
        self.folder.write_json("ledger.json", total.as_dict())
        return rows

    def _jobs(self, found: Mapping[str, Found]) -> list[Cell]:
        """All jobs, in the order of the table."""
        return [
            Cell(task, policy, k, row.first_seed + k, found[task] if called(policy)[1] == SEARCHED else None)
            for task, row in self.cells.rows.items()
            for policy in self.config.policies
            for k in range(self.config.seeds)
        ]

    def _filled(self, jobs: Sequence[Cell], do: Do) -> Iterator[Filled]:
        """Yields the cells in order; each pair of task and policy is recorded in its own folder."""
        with ExitStack() as stack:
            for job, filled in do(jobs):
                if not job.place:
                    stack.close()
                    rows, (curves, recorder) = [], stack.enter_context(self._recorded(job))
                for note in filled.notes:
                    recorder.write(note)
                rows.append(filled.row)
                if len(rows) == self.config.seeds:
                    curves.result(means(rows))
                yield filled

    @contextmanager
    def _recorded(self, job: Cell) -> Iterator[tuple[Curves, Recorder]]:
        """The curves and the recorder of a task and policy."""
        name = called(job.policy)[0]
        place = group_folder(self.folder.path, job.task, name)
        place.mkdir(parents=True, exist_ok=True)
        knowledge = self.cells.env(job.task, job.policy).knowledge
        with (
            curves_of(
                self.config, self.folder, place / "tensorboard", f"{job.task}/{name}", task=job.task, policy=name
            ) as curves,
            closing(Recorder(place, knowledge, curves)) as recorder,
        ):
            yield curves, recorder

    @contextmanager
    def _doing(self, bar: Bar) -> Iterator[Do]:
        """Yields the function that runs the jobs, one after the other in this process, or in workers."""
        if not self.config.remote or self.config.backend == "dummy":
            self.cells.on_phase = bar.phase
            yield lambda jobs: ((job, self.cells.do(job)) for job in jobs)
            return

        def count(job: Any, answer: Any) -> None:
            if isinstance(answer, Filled):
                bar.update(answer.row["steps"])

        cell = max(self.cells.env(task).decisions for task in self.cells.rows) + 2  # decisions and measurements
        search = cell * self.config.search_tries * self.config.search_seeds
        with closing(
            self.config.start_workers(
                OnItsDevice(partial(Cells, alike=self.cells.identities()), self._placed), self._placed.device
            )
        ) as crew:
            yield lambda jobs: run_jobs(
                crew,
                jobs,
                seconds=self.config.step_timeout * (search if any(isinstance(job, Search) for job in jobs) else cell),
                on_answer=count,
            )

    def _result(self, cells: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
        return {
            "task": list(dict.fromkeys(cell["task"] for cell in cells)),
            "policy": list(dict.fromkeys(cell["policy"] for cell in cells)),
            "seed": sorted({cell["seed"] for cell in cells}),
            "steps": self.config.steps or sorted({cell["steps"] for cell in cells}),
            "seconds": round(seconds, 3),
            "reward_from": list(dict.fromkeys(cell["reward_from"] for cell in cells)),
            "cells": cells,
        }


def evaluate(
    policies: Sequence[object] | Mapping[str, object],
    *,
    settings: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any] | Instance],
    seeds: int = 3,
    output: str | Path | None = None,
    **options: Any,
) -> Table:
    """Distils a student for each setting, policy and seed; all policies start from the same students.

    Args:
        policies: names, folders of saved policies, a `Selection`, a function from the `Episode` so far to a
            `Selection`, trained agents, agents of stable-baselines3, or objects with the same `predict`; or a dict from
            names in the table to policies.
        settings: a set of instances or a JSON file with instances; or one or several settings, as for `ackd.prepare`.
            The row is named by the key `name` of the setting, or else by its task.
        seeds: number of students for each setting and policy.
        output: folder of the run; `resume=True` continues it; nothing is saved if None.
        **options: the other fields of `EvaluationConfig`. Objects, such as your own `knowledge`, apply to every setting
            that has none of its own.

    Raises:
        InputError: in one sentence, if an argument cannot be used.

    Example:
        evaluate(["labels", "all", agent], settings=[{"task": "polarity", "teacher": "runs/teacher"}]).to_pandas()
    """
    named, objects = _policies(policies)
    common = shared(options, settings)
    if not isinstance(settings, (str, Path)):
        options["tasks"] = ()
    else:
        options["instances"] = str(settings)
    with placed(output) as folder:
        chosen = {"policies": named, "seeds": seeds, "output": folder, **options}
        config = checked(EvaluationConfig, chosen, others=("settings",))
        rows = None if isinstance(settings, (str, Path)) else _rows(settings, config, common)
        table = Evaluation(config, rows=rows, policies=objects).run()
        return table if output is not None else replace(table, folder=None)


def _policies(given: Sequence[object] | Mapping[str, object]) -> tuple[list[str], dict[str, object]]:
    """The names of the policies, as for the command line, and the policies that are objects."""
    if isinstance(given, str) or not isinstance(given, (Sequence, Mapping)):
        raise InputError(f"policies are {given!r}: give a list of them, or a dict from names to policies")
    names, objects = [], {}
    for name, one in given.items() if isinstance(given, Mapping) else ((None, one) for one in given):
        if isinstance(one, (str, Path)):
            names.append(str(one) if name in (None, str(one)) else f"{name}={one}")
            continue
        own = name or name_of(one)
        if own in objects:
            raise InputError(f"two policies are called {own}: give a dict from names to policies")
        names.append(own)
        objects[own] = one
    return names, objects


def _rows(
    settings: Mapping[str, Any] | Instance | Sequence[Mapping[str, Any] | Instance],
    config: EvaluationConfig,
    common: Mapping[str, Any],
) -> dict[str, Row]:
    """The settings by row name, with the common options."""
    if isinstance(settings, (Mapping, Instance)):
        settings = [settings]
    given = part(config, DataConfig, StudentConfig, EpisodeConfig)
    rows: dict[str, Row] = {}
    for one in settings:
        own = dict(one.setting) if isinstance(one, Instance) else renamed(one)
        name = one.name if isinstance(one, Instance) else str(own.pop("name", own.get("task", "data")))
        if name in rows:
            raise InputError(f"two settings are called {name}: give each a name of its own")
        first = one.seeds[0] if isinstance(one, Instance) else config.first_seed
        rows[name] = Row(over(given, {**common, **own}), first)
    if not rows:
        raise InputError("there is no setting to evaluate on: give at least one")
    return rows
