"""Trains students that teach each other, and chooses the best one on the reward split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ackd.building.checks import check_device
from ackd.building.sources import StudentSource
from ackd.building.students import students as students_of
from ackd.config import DataConfig, RecipeConfig, checked, part
from ackd.experiments.beginning import Beginning, size_of
from ackd.experiments.objects import ALWAYS, by_name, placed
from ackd.experiments.progress import move, progress, say
from ackd.experiments.results import summary
from ackd.experiments.student_card import Origin, write_student
from ackd.experiments.student_options import MutualConfig
from ackd.experiments.trained import Trained, leave, left
from ackd.federation.mutual import MutualLearning
from ackd.models import Tokenizer
from ackd.tasks import Task, check_rewards
from ackd.tasks.data_sets import Data
from ackd.training.recipe import Recipe, length
from ackd.types import StepMetrics

INTERVAL = 20  # optimizer steps between two points of the curves
COLUMNS = ("step", "student", "label_loss", "peer_loss", "accuracy")


class MutualTraining:
    """Deep mutual learning in a run's folder.

    Args:
        config: options of the training.
        **objects: students and data, if given as objects.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: MutualConfig, **objects: Any) -> None:
        self.config, self.objects = config, objects
        self.folder = config.run_folder((*config.students, config.data))
        self.finished = config.finished(self.folder, "mutual")

    def run(self) -> Trained:
        """Trains, chooses on the reward split, evaluates every student on dev, and saves the chosen one.

        Raises:
            InputError: if an option cannot be used.
            FloatingPointError: if a training diverges.
        """
        learning, task = self._learning()
        self.folder.begin("mutual", asdict(self.config), by_names=not self.objects)
        first, quiet = learning.peers[0], self.config.quiet
        peers = tuple(size_of(one.student.model) for one in learning.peers)
        begins = replace(Beginning.of(first, students=learning.size, peers=peers), teachers=())
        say(begins.lines, quiet=quiet)
        started = time.perf_counter()
        replay_log = self.config.replay_log(self.folder.path / "checkpoint")
        learning.replay(replay_log)
        self.folder.write_text("curve.csv", "\n".join(self._curve(learning)) + "\n")
        result = self._result(learning, task)
        result["seconds"] = round(time.perf_counter() - started, 3)
        best, count = result["chosen"], learning.size
        model = learning.peers[best - 1].student.model
        made = f"deep mutual learning of {count} students, of which this is number {best}"
        origin = Origin(task, model, result, learning.costs, {"made by": made}, peers=self.config.students)
        write = partial(write_student, settings=self.folder.settings, origin=origin)
        trained = Trained(result, learning.costs, model, write, tokenizer=task.tokenizer)
        trained = leave(self.folder, trained, learning.peers[best - 1], timed=not quiet)
        replay_log.finish()
        return trained

    def _learning(self) -> tuple[MutualLearning, Task]:
        """The untrained students, and their task."""
        config = self.config
        where: dict[str, Any] = {"device": str(check_device(config.device)), "precision": config.precision}
        sources = {"students": config.students, **part(config, DataConfig), **self.objects}
        task, factories = students_of(task=config.task, **sources, **where)
        check_rewards(task)
        how: dict[str, Any] = dict(where)
        batch = config.batch_size * config.accumulate
        how["steps"] = length(config.steps, config.epochs, examples=len(task.train), batch=batch)
        how |= {name: getattr(config, name) for name in ("batch_size", "accumulate", "lr")}
        how |= {"recipe": Recipe.of(part(config, RecipeConfig)), "compiled": config.compile}
        return MutualLearning(task, factories, dropout=config.peer_dropout, **how), task

    def _curve(self, learning: MutualLearning) -> list[str]:
        """Trains the students to the end; returns the lines of the curves."""
        with progress(learning.steps, "mutual", quiet=self.config.quiet) as bar:
            learning.reset(self.config.seed)
            curve = [",".join(COLUMNS)]
            while learning.steps_done < learning.steps:
                reports = learning.advance(INTERVAL)
                curve += _points(learning.steps_done, reports)
                move(bar, learning.steps_done, reports[-1][0])
        return curve

    def _result(self, learning: MutualLearning, task: Task) -> dict[str, Any]:
        """The fields of `result.json`."""
        rewards = learning.evaluate(task.reward, "reward")
        best = max(range(len(rewards)), key=lambda k: (rewards[k].score, -rewards[k].loss))
        dev = {name: learning.evaluate(split, name) for name, split in task.dev.items()}
        students = [
            {
                "student": name,
                "reward_score": round(100 * rewards[k].score, 4),
                "dev_score": round(100 * next(iter(dev.values()))[k].score, 4),
            }
            for k, name in enumerate(self.config.students)
        ]
        return summary(
            task,
            {name: those[best] for name, those in dev.items()},
            policy="mutual",
            seed=self.config.seed,
            steps=learning.steps,
            chosen=best + 1,
            students=students,
        )


def _points(step: int, reports: Sequence[Sequence[StepMetrics[float]]]) -> list[str]:
    """A line of the curves for each student: means over the latest steps."""
    lines = []
    for k, own in enumerate(zip(*reports, strict=True)):
        peers = [sum(one.losses.values()) / len(one.losses) for one in own]
        means = (sum(values) / len(own) for values in ([one.labels for one in own], peers, [r.accuracy for r in own]))
        lines.append(",".join([str(step), str(k + 1), *(f"{mean:.6g}" for mean in means)]))
    return lines


def mutual(
    students: Sequence[StudentSource],
    data: Data | None = None,
    *,
    task: str = "data",
    tokenizer: Tokenizer | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Trained:
    """Trains students together, each on the labels and on the others' predictions (deep mutual learning).

    Args:
        students: two or more students, each as for `ackd.prepare`; all share one tokenizer.
        data: training data, as for `ackd.prepare`.
        task: a GLUE task, a generated one, or any name for data of your own.
        tokenizer: tokenizer of models given as objects; if None, the one in their folder.
        output: folder of the run; `resume=True` continues it; nothing is saved if None.
        **options: the other fields of `MutualConfig`.

    Returns:
        The student with the best score on the reward split; `result["students"]` has a row for each.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
        FloatingPointError: if a training diverges.
    """
    given = {"task": task, "students": list(students), "data": data, "tokenizer": tokenizer, **options}
    plain, objects = by_name(given, "students", "data", "dev_data", "compute_metrics")
    with placed(output) as folder:
        training = MutualTraining(checked(MutualConfig, {**plain, "output": folder}, others=ALWAYS), **objects)
        return left(training.folder) if training.finished else training.run()
