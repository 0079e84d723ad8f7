"""Simulates a federation, from a plain and from a distilled start."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ackd.building.checks import check_device
from ackd.building.students import students
from ackd.config import DataConfig, ModelConfig, RecipeConfig, checked, part
from ackd.costs import CostTracker
from ackd.errors import InputError, unknown
from ackd.experiments.beginning import Beginning, size_of
from ackd.experiments.objects import ALWAYS, by_name, placed
from ackd.experiments.progress import progress, say
from ackd.experiments.results import rewarded
from ackd.experiments.student_card import Origin, write_student
from ackd.experiments.student_options import FederateConfig
from ackd.experiments.tracking import curves_of
from ackd.experiments.trained import Trained, leave, left
from ackd.federation.clients import ClientSplit
from ackd.federation.federated import Federation, Weights
from ackd.federation.metrics import federated_metrics
from ackd.federation.rounds import STARTS, Rounds
from ackd.models import Tokenizer
from ackd.numerics.streams import RngStreams
from ackd.tasks import check_rewards
from ackd.tasks.data_sets import Data
from ackd.teachers.cache.budget import readable
from ackd.training.recipe import Recipe

if TYPE_CHECKING:
    from tqdm import tqdm

COLUMNS = ("start", "round", "score", "loss", "bytes_down", "bytes_up", "bytes")


class FederatedTraining:
    """Runs FedAvg from each start, in a run's folder; dev is read at the end.

    Args:
        config: options of the federation.
        **objects: models and data, if given as objects.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: FederateConfig, **objects: Any) -> None:
        self.config, self.objects = config, objects
        self.folder = config.run_folder((config.teacher, config.student, config.data))
        self.finished = config.finished(self.folder, "federate")

    def run(self) -> Trained:
        """Runs the rounds from each start, and saves the best final model.

        Raises:
            InputError: if an option cannot be used.
            FloatingPointError: if a training diverges.
        """
        _check(self.config)
        federation = self._federation()
        self.folder.begin("federate", asdict(self.config), by_names=not self.objects)
        self._say(federation)
        started, total = time.perf_counter(), CostTracker()
        rounds = self._rounds(federation)
        own, ends, rows = self._learned(rounds, total)
        self.folder.write_rows("table.csv", COLUMNS, rows)
        result = federated_metrics(federation, rounds.initial, own, ends, rows, self.config.target, total)
        self.folder.write_text("table.md", _table(result) + "\n")
        seconds = round(time.perf_counter() - started, 3)
        trained = self._best(federation, ends, result, total, seconds)
        score = result["starts"][trained.result["saved"]]["dev_score"]
        trained = leave(self.folder, trained, federation.evaluation, score=score, timed=not self.config.quiet)
        shutil.rmtree(self.folder.path / "checkpoint", ignore_errors=True)
        return trained

    def _federation(self) -> Federation:
        """The server and the clients with their parts of the data."""
        config = self.config
        names: dict[str, Any] = part(config, DataConfig, ModelConfig) | {"teacher": config.teacher} | self.objects
        student = names.pop("student")
        task, (make,) = students(task=config.task, students=() if student is None else (student,), **names)
        check_rewards(task)
        count = len(task.train)
        if config.public_examples >= count:
            raise InputError(f"--public-examples is {config.public_examples} of {count}: leave some to the clients")
        rng = np.random.default_rng(config.data_seed)
        order = rng.permutation(count)
        public, private = np.sort(order[: config.public_examples]), np.sort(order[config.public_examples :])
        parts = ClientSplit.parse(config.split)(task.train.labels[private], config.clients, rng)
        with RngStreams(config.seed).initialising():
            model = make().to("cpu")
        setting = {name: getattr(config, name) for name in ("batch_size", "lr", "precision")}
        setting["device"] = check_device(config.device)
        setting["recipe"] = Recipe.of(part(config, RecipeConfig))
        return Federation(task, public, [private[part] for part in parts], model, config.seed, setting)

    def _say(self, federation: Federation) -> None:
        """Prints data, length and clients."""
        config, task, evaluation = self.config, federation.task, federation.evaluation
        steps = config.own_steps + len(config.starts) * config.rounds * config.local_steps
        begins = Beginning.on(
            task,
            evaluation.device,
            steps=config.clients * steps,
            batch=config.batch_size,
            student=size_of(federation.model),
        )
        sizes = [len(part) for part in federation.parts]
        clients = (
            f"clients: {len(sizes)} with {min(sizes):,} to {max(sizes):,} examples each; {len(federation.public):,}"
        )
        say(f"{begins.lines}\n{clients} with the server", quiet=config.quiet)

    def _rounds(self, federation: Federation) -> Rounds:
        return Rounds(
            federation,
            self.folder.path / "checkpoint",
            federation.weights_of(federation.model),
            own_steps=self.config.own_steps,
            distil_steps=self.config.distil_steps,
            local_steps=self.config.local_steps,
            alpha=self.config.kd_weight,
            tau=self.config.temperature,
        )

    def _learned(
        self, rounds: Rounds, total: CostTracker
    ) -> tuple[Sequence[Weights], dict[str, Weights], list[dict[str, Any]]]:
        """The clients' own models, the final model of each start, and a row per round; adds the costs to `total`."""
        config = self.config
        ends: dict[str, Weights] = {}
        rows: list[dict[str, Any]] = []
        steps = config.clients * (config.own_steps + len(config.starts) * config.rounds * config.local_steps)
        with progress(steps, "federate", quiet=config.quiet) as bar:
            own = rounds.own(total, bar.update)
            for start in config.starts:
                with self._curves(start, bar) as draw:
                    ends[start], mine, costs = rounds.run(start, own, config.rounds, draw)
                rows += mine
                total.add(costs)
        return own, ends, rows

    @contextmanager
    def _curves(self, start: str, bar: tqdm[Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Draws each round of a start and moves the progress bar."""
        with curves_of(
            self.config, self.folder, self.folder.path / "tensorboard" / start, start, start=start
        ) as curves:

            def draw(row: Mapping[str, Any]) -> None:
                numbers = {f"federation/{name}": row[name] for name in ("score", "loss", "bytes")}
                curves.write("round", row["round"], numbers)
                if row["round"]:
                    bar.update(self.config.clients * self.config.local_steps)

            yield draw
            curves.result({})

    def _best(
        self,
        federation: Federation,
        ends: Mapping[str, Weights],
        result: dict[str, Any],
        total: CostTracker,
        seconds: float,
    ) -> Trained:
        """The model with the best score on the reward split."""
        config, starts = self.config, result["starts"]
        best = max(config.starts, key=lambda start: (starts[start]["score"], -starts[start]["loss"]))
        model = federation.holding(ends[best])
        how = f"federated averaging over {config.clients} clients in {config.rounds} rounds, from the {best} start"
        scores = {result["dev"]: {result["metric"]: starts[best]["dev_score"]}}
        origin = Origin(federation.task, model, {**result, "dev_scores": scores}, total, {"made by": how})
        write = partial(write_student, settings=self.folder.settings, origin=origin)
        result = {**result, **rewarded(federation.task), "saved": best, "seconds": seconds}
        return Trained(result, total, model, write, _table(result), federation.task.tokenizer)


def _check(config: FederateConfig) -> None:
    """Checks the options before anything is read."""
    ClientSplit.parse(config.split)
    config.trackers()
    for name in ("public_examples", "rounds", "local_steps", "own_steps", "distil_steps"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(config, name)}: at least 1 is needed")
    for start in config.starts:
        if start not in STARTS:
            raise unknown("start", start, STARTS)
        if config.starts.count(start) > 1:
            raise InputError(f"the start {start!r} is named twice: name it once")
    if not config.starts:
        raise InputError(f"no start was named: give one or more of {', '.join(STARTS)}")
    if config.target is not None and not 0 < config.target <= 100:
        raise InputError(f"--target is {config.target:g}: give a score in percent, above 0 and at most 100")
    if not (math.isfinite(config.temperature) and config.temperature > 0):
        raise InputError(f"--temperature is {config.temperature}: give a number above 0")
    if not 0 <= config.kd_weight <= 1:
        raise InputError(f"--kd-weight is {config.kd_weight}: give a number from 0 to 1")
    Recipe.of(part(config, RecipeConfig))


def _table(result: Mapping[str, Any]) -> str:
    """A Markdown table with a row for each start."""
    lines = [
        f"{result['task']}: {result['metric']} {result['initial_dev_score']:.2f} on dev before anything was learned; "
        f"the clients' own models {min(result['client_dev_scores']):.2f} to {max(result['client_dev_scores']):.2f}",
        "",
        "| start | server's part, at first and last | rounds to target | exchanges to it | sent | dev | gain "
        "| forgetting | flips + | flips - |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for start, one in result["starts"].items():
        lines.append(
            f"| {start} | {one['start_score']:.2f} to {one['score']:.2f} | {_shown(one['rounds_to_target'], 'd')} "
            f"| {_shown(one['exchanges_to_target'], 'd')} | {readable(one['bytes'])} | {one['dev_score']:.2f} "
            f"| {one['gain']:+.2f} | {_shown(one['forgetting'])} | {_shown(one['positive_flips'])} "
            f"| {_shown(one['negative_flips'])} |"
        )
    return "\n".join(lines)


def _shown(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def federate(
    data: Data | None = None,
    *,
    task: str = "data",
    tokenizer: Tokenizer | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Trained:
    """Simulates a federation: FedAvg over clients with their own parts of the data, from several starts.

    Args:
        data: training data, as for `ackd.prepare`.
        task: a GLUE task, a generated one, or any name for data of your own.
        tokenizer: tokenizer of models given as objects; if None, the one in their folder.
        output: folder of the run; `resume=True` continues it; nothing is saved if None.
        **options: the other fields of `FederateConfig`; `student` and `teacher` may be transformers models.

    Returns:
        The final model with the best score on the reward split; `result["starts"]` describes all of them.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
        FloatingPointError: if a training diverges.
    """
    given = {"task": task, "data": data, "tokenizer": tokenizer, **options}
    plain, objects = by_name(given, "teacher", "student", "data", "dev_data", "compute_metrics")
    with placed(output) as folder:
        training = FederatedTraining(checked(FederateConfig, {**plain, "output": folder}, others=ALWAYS), **objects)
        return left(training.folder) if training.finished else training.run()
