"""`ackd tune`: the temperature and weight of plain distillation, by grid search."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.config import CacheConfig, DataConfig, ModelConfig, TrainingConfig, part
from ackd.experiments.options import RunConfig
from ackd.experiments.progress import progress

if TYPE_CHECKING:
    from ackd.experiments.grid import Grid, Pair
    from ackd.ledger import Ledger
    from ackd.runs.folder import RunFolder
    from ackd.training.distillation import Distillation

UNTUNED: Pair = (1.0, 0.5)
COLUMNS = ("temperature", "kd_weight", "reward_score", "reward_loss", "seconds", "error", "note")


@dataclass(frozen=True, kw_only=True)
class Tune(DataConfig, ModelConfig, CacheConfig, TrainingConfig, RunConfig):
    """Find the temperature and weight of plain distillation by grid search.

    Students of every pair are judged on the reward split, and dev is read at the end: for the pair that was chosen,
    for the untuned one (1, 0.5), and for the student before it learned.
    """

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: tuple[str, ...]
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach by their average."""
    temperature: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Temperatures to try."""
    kd_weight: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Weights of the teacher to try, from 0 to 1; the labels have the rest."""
    seeds: int = 1
    """Students for each pair; every pair gets the same ones."""
    first_seed: int = 0
    """The first of the seeds."""

    def run(self) -> None:
        """Fills the grid cell by cell, chooses, and saves the chosen student under OUTPUT/student."""
        from ackd.experiments.grid import Grid, pair, standing
        from ackd.experiments.results import save_student
        from ackd.experiments.student_card import Origin, model_of
        from ackd.ledger import Ledger

        folder = self.run_folder((*self.teacher, self.student, self.data, self.cache))
        if self.finished(folder, "tune"):
            return
        self._check()
        untuned = self._prepare(UNTUNED)  # refuses what cannot work
        folder.begin("tune", asdict(self))
        started, total = time.perf_counter(), Ledger()
        untuned.facts()  # for what it warns of
        total.add(untuned.ledger)
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        students = Grid(folder.path, self._prepare, seeds, self.journal)
        grid = [(tau, weight) for tau in self.temperature for weight in self.kd_weight]
        rows: list[dict[str, Any]] = []
        best: dict[str, Any] | None = None
        cells = [*grid, *([] if UNTUNED in grid else [UNTUNED])]
        with progress(len(cells) * self.seeds * untuned.steps, "tune") as bar:
            for cell in cells:
                rows.append(students.row(cell, lambda: bar.update(untuned.steps)))
                total.add(Ledger(**rows[-1]["ledger"]))
                if cell in grid and not rows[-1]["error"] and (best is None or standing(rows[-1]) > standing(best)):
                    best = rows[-1]
                kept = {UNTUNED, best and pair(best)}
                for other in {pair(row) for row in rows} - kept:
                    students.forget(other)
                text = self._tables(folder, rows, best, grid)
        print(text)
        if best is None:
            raise FloatingPointError(f"every training of the grid diverged: lower --lr ({self.lr})")
        result = self._result(students, rows, best, total)
        taught = students.taught(pair(best), self.first_seed)
        told = {"transferred": "logits at temperature {temperature:g}, weight {kd_weight:g} of 1".format(**best)}
        origin = Origin(taught.task, taught.student.model, result, total, told, model_of(taught))
        save_student(folder.path / "student", folder.settings, taught, origin)
        folder.write_json("ledger.json", total.as_dict())
        folder.write_json("result.json", {**result, "seconds": round(time.perf_counter() - started, 3)})
        shutil.rmtree(folder.path / "students", ignore_errors=True)
        print(_said(result))
        print(f"to distil so: {result['command']}\nstudent: {folder.path / 'student'}")

    def _check(self) -> None:
        from ackd.errors import InputError

        for name, values in (("temperature", self.temperature), ("kd-weight", self.kd_weight)):
            if not values:
                raise InputError(f"--{name} names no value to try: give at least one")
            for value in values:
                if values.count(value) > 1:
                    raise InputError(f"--{name} has {value:g} twice: name each value once")
        for tau in self.temperature:
            if not (math.isfinite(tau) and tau > 0):
                raise InputError(f"--temperature has {tau}: give numbers above 0")
        for weight in self.kd_weight:
            if not 0 <= weight <= 1:
                raise InputError(f"--kd-weight has {weight}: give numbers from 0 to 1")
        if self.seeds < 1:
            raise InputError(f"--seeds is {self.seeds}: at least 1 is needed")
        if not self.teacher:
            raise InputError("no teacher was named: give a folder or a hub id")

    def _prepare(self, cell: Pair) -> Distillation:
        from ackd.building.setting import prepare

        return prepare(
            task=self.task,
            teacher=self.teacher,
            preset=self._preset,
            options=_options(cell),
            **part(self, DataConfig, ModelConfig, CacheConfig, TrainingConfig),
        )

    @property
    def _preset(self) -> str:
        return "kd" if len(self.teacher) == 1 else "kd-average"

    def _result(
        self, students: Grid, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any], total: Ledger
    ) -> dict[str, Any]:
        """The fields of `result.json`; here, and only here, dev is read."""
        from ackd.experiments.grid import pair
        from ackd.experiments.results import summary, teacher_standings

        control = next(row for row in rows if pair(row) == UNTUNED)
        chosen = pair(best)
        cells = dict.fromkeys([chosen, *([] if control["error"] else [UNTUNED])])
        ready = {cell: [students.taught(cell, seed) for seed in students.seeds] for cell in cells}

        def read(distillations: Sequence[Distillation]) -> float:
            name, split = next(iter(distillations[0].task.dev.items()))
            standings = [one.measure(split, name) for one in distillations]
            for one in distillations:
                total.add(one.ledger)
            return round(100 * _mean([one.score for one in standings]), 4)

        (first, *_) = ready[chosen]
        dev = {name: first.measure(split, name) for name, split in first.task.dev.items()}
        scores = {cell: read(those) for cell, those in ready.items()}
        for one, seed in zip(ready[chosen], students.seeds, strict=True):
            one.reset(seed)
        initial = read(ready[chosen])
        tuned, untuned = scores[chosen], scores.get(UNTUNED)
        earned = None if untuned is None else untuned - initial
        return {
            **summary(first.task, dev, teacher_standings(first)),
            "dev_score": tuned,
            "untuned_dev_score": untuned,
            "initial_dev_score": initial,
            "gain": round(tuned - initial, 4),
            "untuned_gain": None if earned is None else round(earned, 4),
            "relative_gain": None if untuned is None or not earned or earned < 0 else (tuned - untuned) / earned,
            "policy": "tuned-kd",
            "best": {name: best[name] for name in ("temperature", "kd_weight", "reward_score", "reward_loss")},
            "seed": list(students.seeds),
            "steps": first.steps,
            "command": self._command(chosen),
            "cells": [{name: row[name] for name in row if name != "ledger"} for row in rows],
        }

    def _tables(
        self,
        folder: RunFolder,
        rows: Sequence[Mapping[str, Any]],
        best: Mapping[str, Any] | None,
        grid: Sequence[Pair],
    ) -> str:
        """Writes `table.csv` and `table.md`, and gives the latter back."""
        from ackd.experiments.grid import pair

        noted = []
        for row in rows:
            notes = [
                *(["best"] if row is best else []),
                *(["untuned"] if pair(row) == UNTUNED else []),
                *(["not in the grid"] if pair(row) not in grid else []),
            ]
            noted.append({**row, "note": ", ".join(notes)})
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(noted)
        folder.write_text("table.csv", file.getvalue())
        lines = ["| temperature | KD weight | reward split | loss there | seconds | |", "|---|---|---|---|---|---|"]
        for row in noted:
            score = "diverged" if row["error"] else f"{row['reward_score']:.2f}"
            loss = "" if row["error"] else f"{row['reward_loss']:.4f}"
            lines.append(
                f"| {row['temperature']:g} | {row['kd_weight']:g} | {score} | {loss} | {row['seconds']:.1f} "
                f"| {row['note']} |"
            )
        text = "\n".join(lines)
        folder.write_text("table.md", text + "\n")
        return text

    def _command(self, cell: Pair) -> str:
        """What distils such a student."""
        from ackd.cli.distill import Distill

        words = ["ackd", "distill", "--task", self.task, "--teacher", *self.teacher]
        theirs = {field.name for field in dataclasses.fields(Distill)} - {"task", "teacher", "seed", "temperature"}
        run = {field.name for field in dataclasses.fields(RunConfig)}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in theirs - run or value == field.default:
                continue
            words.append(f"--{field.name.replace('_', '-')}")
            if not isinstance(value, bool):
                words += map(str, value) if isinstance(value, tuple) else [str(value)]
        options = [f"{name}={value}" for name, value in _options(cell).items()]
        seed = ["--seed", str(self.first_seed)] if self.first_seed else []
        return shlex.join([*words, *seed, "--preset", self._preset, "--options", *options, "--output", "RUN"])


def _options(cell: Pair) -> dict[str, float]:
    """The preset's."""
    return {"tau": cell[0], "alpha": cell[1]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _said(result: Mapping[str, Any]) -> str:
    best, relative = result["best"], result["relative_gain"]
    lines = [
        f"{result['task']}: temperature {best['temperature']:g} and weight {best['kd_weight']:g}: {result['metric']} "
        f"{result['dev_score']:.2f} on dev, {result['gain']:+.2f} against the student before it learned"
    ]
    if result["untuned_dev_score"] is None:
        lines.append("untuned (1, 0.5) it diverged")
    else:
        share = "" if relative is None else f"; tuning raises the gain by {relative:.0%}"
        lines.append(f"untuned (1, 0.5): {result['untuned_dev_score']:.2f}, {result['untuned_gain']:+.2f}{share}")
    return "\n".join(lines)
