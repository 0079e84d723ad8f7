"""Finds the temperature and weight of plain distillation by grid search."""

from __future__ import annotations

import dataclasses
import math
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ackd.building.setting import prepare
from ackd.building.sources import Source, StudentSource, several
from ackd.config import (
    CacheConfig,
    DataConfig,
    DistillationConfig,
    ModelConfig,
    TrainingConfig,
    checked,
    names_of,
    part,
)
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.experiments.beginning import Beginning
from ackd.experiments.grid import COLUMNS, Grid, Pair, pair, rank, tabulated
from ackd.experiments.objects import ALWAYS, by_name, placed
from ackd.experiments.progress import progress, say
from ackd.experiments.results import save_student, summary, teacher_results
from ackd.experiments.student_card import Origin, model_of
from ackd.experiments.student_options import TuneConfig
from ackd.experiments.trained import Trained, leave, left
from ackd.models import Tokenizer
from ackd.tasks import ComputeMetrics, check_labels, check_rewards
from ackd.tasks.data_sets import Data
from ackd.training.distillation import Distillation

UNTUNED: Pair = (1.0, 0.5)


@dataclass
class Found:
    """The state of a search.

    Args:
        rows: rows of the finished cells.
        costs: costs of all cells.
        best: the row of the best cell of the grid; None while all have diverged.
        seconds: duration of the search.
    """

    rows: list[dict[str, Any]]
    costs: CostTracker
    best: dict[str, Any] | None = None
    seconds: float = 0.0


class Tuning:
    """Searches for the best temperature and weight; dev is read after the choice.

    Args:
        config: the grid, and the options of each training.
        **objects: models, a tokenizer and data, if given as objects.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: TuneConfig, **objects: Any) -> None:
        self.config, self.objects = config, objects
        self.folder = config.run_folder((*config.teacher, config.student, config.data, config.cache))
        self.finished = config.finished(self.folder, "tune")
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        make = partial(_prepared, config, objects)  # a bound method would form a cycle and keep the folder locked
        self.students = Grid(self.folder.path, make, seeds, config.replay_log)
        self.cells = [(float(tau), float(weight)) for tau in config.temperature for weight in config.kd_weight]

    def search(self) -> Found:
        """Trains the grid cell by cell, and updates its table after each cell.

        Raises:
            InputError: if an option cannot be used.
        """
        _check(self.config)
        untuned = self.students.make(UNTUNED)  # checks the options
        check_labels(untuned.task.spec, "tuning")
        check_rewards(untuned.task)
        self.folder.begin("tune", asdict(self.config), by_names=not self.objects)
        cells = [*self.cells, *([] if UNTUNED in self.cells else [UNTUNED])]
        students, quiet = len(cells) * self.config.seeds, self.config.quiet
        say(Beginning.of(untuned, students=students).lines, quiet=quiet)
        started, found = time.perf_counter(), Found([], CostTracker())
        untuned.facts()  # for its warnings
        found.costs.add(untuned.costs)
        with progress(students * untuned.steps, "tune", quiet=quiet) as bar:
            for cell in cells:
                row = self.students.row(cell, lambda: bar.update(untuned.steps))
                found.rows.append(row)
                found.costs.add(CostTracker(**row["ledger"]))
                if cell in self.cells and not row["error"] and (not found.best or rank(row) > rank(found.best)):
                    found.best = row
                kept = {UNTUNED, found.best and pair(found.best)}
                for other in {pair(one) for one in found.rows} - kept:
                    self.students.forget(other)
                noted = self._noted(found)
                self.folder.write_rows("table.csv", COLUMNS, noted)
                self.folder.write_text("table.md", tabulated(noted) + "\n")
        found.seconds = time.perf_counter() - started
        return found

    def choose(self, found: Found) -> Trained:
        """Saves the best cell's first student in the run's folder, with dev scores of it and the untuned student.

        Raises:
            FloatingPointError: if every training of the grid diverged.
        """
        config, best, started = self.config, found.best, time.perf_counter()
        if best is None:
            raise FloatingPointError(f"every training of the grid diverged: lower --lr ({config.lr})")
        result = self._result(found, best)
        taught = self.students.taught(pair(best), config.first_seed)
        told = {"transferred": "logits at temperature {temperature:g}, weight {kd_weight:g} of 1".format(**best)}
        model = taught.student.model
        origin = Origin(taught.task, model, result, found.costs, told, model_of(taught))
        write = partial(save_student, settings=self.folder.settings, distillation=taught, origin=origin)
        seconds = round(found.seconds + time.perf_counter() - started, 3)
        result, its = {**result, "seconds": seconds}, taught.task.tokenizer
        trained = Trained(result, found.costs, model, write, self.table(found), its)
        trained = leave(self.folder, trained, taught, timed=not config.quiet)
        shutil.rmtree(self.folder.path / "students", ignore_errors=True)
        return trained

    def table(self, found: Found) -> str:
        """A Markdown table with a row for each cell."""
        return tabulated(self._noted(found))

    def _noted(self, found: Found) -> list[dict[str, Any]]:
        """The rows with their notes."""
        noted = []
        for row in found.rows:
            notes = [
                *(["best"] if row is found.best else []),
                *(["untuned"] if pair(row) == UNTUNED else []),
                *(["not in the grid"] if pair(row) not in self.cells else []),
            ]
            noted.append({**row, "note": ", ".join(notes)})
        return noted

    def _result(self, found: Found, best: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `result.json`; only this method reads dev."""
        control = next(row for row in found.rows if pair(row) == UNTUNED)
        chosen, seeds = pair(best), self.students.seeds
        cells = dict.fromkeys([chosen, *([] if control["error"] else [UNTUNED])])
        ready = {cell: [self.students.taught(cell, seed) for seed in seeds] for cell in cells}
        (first, *_) = ready[chosen]
        dev = {name: first.evaluate(split, name) for name, split in first.task.dev.items()}
        scores = {cell: _dev_score(those, found.costs) for cell, those in ready.items()}
        for one, seed in zip(ready[chosen], seeds, strict=True):
            one.reset(seed)
        initial = _dev_score(ready[chosen], found.costs)
        tuned, untuned = scores[chosen], scores.get(UNTUNED)
        earned = None if untuned is None else untuned - initial
        return {
            **summary(first.task, dev, teacher_results(first)),
            "dev_score": tuned,
            "untuned_dev_score": untuned,
            "initial_dev_score": initial,
            "gain": round(tuned - initial, 4),
            "untuned_gain": None if earned is None else round(earned, 4),
            "relative_gain": None if untuned is None or not earned or earned < 0 else (tuned - untuned) / earned,
            "policy": "tuned-kd",
            "best": {name: best[name] for name in ("temperature", "kd_weight", "reward_score", "reward_loss")},
            "seed": list(seeds),
            "steps": first.steps,
            "command": None if self.objects else self._command(chosen),
            "cells": [{name: row[name] for name in row if name != "ledger"} for row in found.rows],
        }

    def _command(self, cell: Pair) -> str:
        """The command that distils a student with the cell's values."""
        words = ["ackd", "distill", "--task", self.config.task, "--teacher", *self.config.teacher]
        theirs = {*names_of(DistillationConfig)} - {"temperature"}
        for field in dataclasses.fields(self.config):
            value = getattr(self.config, field.name)
            if field.name not in theirs or value == field.default:
                continue
            words.append(f"--{field.name.replace('_', '-')}")
            if not isinstance(value, bool):
                words += map(str, value) if isinstance(value, tuple) else [str(value)]
        options = [f"{name}={value}" for name, value in _options(cell).items()]
        seed = ["--seed", str(self.config.first_seed)] if self.config.first_seed else []
        return shlex.join([*words, *seed, "--preset", _preset(self.config), "--options", *options, "--output", "RUN"])


def _check(config: TuneConfig) -> None:
    """Checks the options of the grid."""
    for name, values in (("temperature", config.temperature), ("kd-weight", config.kd_weight)):
        if not values:
            raise InputError(f"--{name} names no value to try: give at least one")
        for value in values:
            if values.count(value) > 1:
                raise InputError(f"--{name} has {value:g} twice: name each value once")
    for tau in config.temperature:
        if not (math.isfinite(tau) and tau > 0):
            raise InputError(f"--temperature has {tau}: give numbers above 0")
    for weight in config.kd_weight:
        if not 0 <= weight <= 1:
            raise InputError(f"--kd-weight has {weight}: give numbers from 0 to 1")
    if config.seeds < 1:
        raise InputError(f"--seeds is {config.seeds}: at least 1 is needed")
    if not config.teacher:
        raise InputError("no teacher was named: give a folder or a hub id")


def _prepared(config: TuneConfig, objects: Mapping[str, Any], cell: Pair) -> Distillation:
    """The distillation of a cell."""
    groups = part(config, DataConfig, ModelConfig, CacheConfig, TrainingConfig)
    own = {"task": config.task, "teacher": config.teacher, **groups, **objects}
    return prepare(preset=_preset(config), options=_options(cell), **own)


def _preset(config: TuneConfig) -> str:
    return "kd" if len(config.teacher) == 1 else "kd-average"


def _options(cell: Pair) -> dict[str, float]:
    """The preset's options for a cell."""
    return {"tau": cell[0], "alpha": cell[1]}


def _dev_score(students: Sequence[Distillation], costs: CostTracker) -> float:
    """The mean score on dev, in percent; adds the students' costs to `costs`."""
    name, split = next(iter(students[0].task.dev.items()))
    eval_results = [one.evaluate(split, name) for one in students]
    for one in students:
        costs.add(one.costs)
    return round(100 * (sum(one.score for one in eval_results) / len(eval_results)), 4)


def tune(
    teacher: Source | Sequence[Source],
    data: Data | None = None,
    *,
    student: StudentSource | None = None,
    task: str = "data",
    tokenizer: Tokenizer | None = None,
    compute_metrics: ComputeMetrics | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Trained:
    """Distils a student at the temperature and weight with the best score on the reward split.

    Args:
        teacher: one or several teachers, as for `ackd.prepare`.
        data: training and dev data, as for `ackd.prepare`.
        student: the model to start from, as for `ackd.prepare`; if None, layers of the teacher.
        task: a GLUE task, a generated one, or any name for data of your own.
        tokenizer: tokenizer of models given as objects; if None, the one in their folder.
        compute_metrics: as for `ackd.prepare`.
        output: folder of the run; `resume=True` continues it; nothing is saved if None.
        **options: the other fields of `TuneConfig`, such as `temperature`, `kd_weight` and `student_layers`.

    Returns:
        The outcome, with `score`, `model`, `save(folder)` and `table`; `result["best"]` has the best temperature and
        weight.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
        FloatingPointError: if every training diverged.

    Example:
        tuned = tune(model, dataset, tokenizer=tokenizer, student_layers=3, temperature=[1, 4], kd_weight=[0.5, 0.9])
    """
    given = {"task": task, "teacher": several(teacher), "student": student, "data": data, "tokenizer": tokenizer}
    given["compute_metrics"] = compute_metrics
    plain, objects = by_name({**given, **options}, "teacher", "student", "data", "dev_data", "compute_metrics")
    with placed(output) as folder:
        tuning = Tuning(checked(TuneConfig, {**plain, "output": folder}, others=ALWAYS), **objects)
        return left(tuning.folder) if tuning.finished else tuning.choose(tuning.search())
