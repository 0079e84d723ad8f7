"""`ackd federate`: a simulated federation, from a plain and from a distilled start."""

from __future__ import annotations

import csv
import io
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.config import DataConfig, ModelConfig, RecipeConfig, part
from ackd.experiments.options import RunConfig
from ackd.experiments.progress import progress
from ackd.training.recipe import Recipe

if TYPE_CHECKING:
    from tqdm import tqdm

    from ackd.federation.federated import Federation
    from ackd.runs.folder import RunFolder

COLUMNS = ("start", "round", "score", "loss", "bytes_down", "bytes_up", "bytes")


@dataclass(frozen=True, kw_only=True)
class Federate(DataConfig, ModelConfig, RecipeConfig, RunConfig):
    """Simulate a federation: clients with their own parts of the training data, averaged by FedAvg, from the starting
    model and from one that was distilled from the clients' own models.

    Every client takes part in every round. A round's score is that of the reward split, which the server holds; dev is
    read at the end. Neither steers anything.
    """

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: str | None = None
    """Where --student-layers and the tokenizer come from: folder, run or hub id. It teaches nobody."""
    clients: int = 8
    """Clients that share the training data, less what the server has."""
    split: str = "dirichlet:0.1"
    """How they share it: iid, shards:S (S shards of the examples sorted by label for each), or dirichlet:A (class
    proportions drawn from a Dirichlet distribution, one class for small A and all for large). Drawn by --data-seed."""
    public_examples: int = 256
    """Training examples that the server has, drawn by --data-seed: what it distils on."""
    rounds: int = 10
    """Rounds of FedAvg from each start."""
    local_steps: int = 20
    """Optimizer steps of a client in a round."""
    own_steps: int = 100
    """Optimizer steps of the model that each client trains by itself beforehand."""
    starts: tuple[str, ...] = ("initial", "distilled")
    """From what FedAvg starts, one after the other: initial (the starting model), labels (trained on the server's
    examples and their labels alone), distilled (from the clients' own models, on the server's examples)."""
    distil_steps: int = 100
    """Optimizer steps of the server for a start."""
    temperature: float = 1.0
    """Of the distillation into one model."""
    kd_weight: float = 0.5
    """Weight of the clients' models in it, from 0 to 1; the labels of the server's examples have the rest."""
    target: float | None = None
    """Score in percent; how many rounds it takes to reach it is reported."""
    batch_size: int = 32
    """Examples in a batch."""
    lr: float = 5e-5
    """Peak learning rate of every training; it rises and falls in every round."""
    seed: int = 0
    """Seed of the starting model and of all trainings; every start gets the same ones."""

    def run(self) -> None:
        """Runs the rounds from each start, and saves the best of the models that they end with under OUTPUT/student."""
        from ackd.experiments.results import ledger_lines, rewarded
        from ackd.experiments.student_card import Origin, write_card
        from ackd.federation.outcome import outcome
        from ackd.federation.rounds import Rounds
        from ackd.ledger import Ledger
        from ackd.tasks import save_classifier

        folder = self.run_folder((self.teacher, self.student, self.data))
        if self.finished(folder, "federate"):
            return
        self._check()
        federation = self._federation()
        folder.begin("federate", asdict(self))
        started, total = time.perf_counter(), Ledger()
        rounds = Rounds(
            federation,
            folder.path / "checkpoint",
            federation.weights_of(federation.model),
            own_steps=self.own_steps,
            distil_steps=self.distil_steps,
            local_steps=self.local_steps,
            alpha=self.kd_weight,
            tau=self.temperature,
        )
        ends, rows = {}, []
        with progress(
            self.clients * (self.own_steps + len(self.starts) * self.rounds * self.local_steps), "federate"
        ) as bar:
            own = rounds.own(total, bar.update)
            for start in self.starts:
                with self._curves(folder, start, bar) as draw:
                    end, mine, ledger = rounds.run(start, own, self.rounds, draw)
                ends[start] = end
                rows += mine
                total.add(ledger)
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        folder.write_text("table.csv", file.getvalue())
        result = outcome(federation, rounds.initial, own, ends, rows, self.target, total)
        text = _tabulate(result)
        folder.write_text("table.md", text + "\n")
        best = max(self.starts, key=lambda start: (result["starts"][start]["score"], -result["starts"][start]["loss"]))
        model = federation.holding(ends[best])
        save_classifier(folder.path / "student", model, federation.task)
        how = f"federated averaging over {self.clients} clients in {self.rounds} rounds, from the {best} start"
        scores = {result["dev"]: {result["metric"]: result["starts"][best]["dev_score"]}}
        origin = Origin(federation.task, model, {**result, "dev_scores": scores}, total, {"made by": how})
        write_card(folder.path / "student", folder.settings, origin)
        folder.write_json("ledger.json", total.as_dict())
        seconds = round(time.perf_counter() - started, 3)
        folder.write_json("result.json", {**result, **rewarded(federation.task), "saved": best, "seconds": seconds})
        shutil.rmtree(folder.path / "checkpoint", ignore_errors=True)
        print(text)
        print(ledger_lines(total))
        print(f"student: {folder.path / 'student'} ({best})\ncurves:  tensorboard --logdir {folder.path}")

    def _check(self) -> None:
        from ackd.errors import InputError, unknown
        from ackd.federation.clients import ClientSplit
        from ackd.federation.rounds import STARTS

        ClientSplit.parse(self.split)
        for name in ("public_examples", "rounds", "local_steps", "own_steps", "distil_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: at least 1 is needed")
        for start in self.starts:
            if start not in STARTS:
                raise unknown("start", start, STARTS)
            if self.starts.count(start) > 1:
                raise InputError(f"the start {start!r} is named twice: name it once")
        if not self.starts:
            raise InputError(f"no start was named: give one or more of {', '.join(STARTS)}")
        if self.target is not None and not 0 < self.target <= 100:
            raise InputError(f"--target is {self.target:g}: give a score in percent, above 0 and at most 100")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"--temperature is {self.temperature}: give a number above 0")
        if not 0 <= self.kd_weight <= 1:
            raise InputError(f"--kd-weight is {self.kd_weight}: give a number from 0 to 1")
        self._recipe()

    def _recipe(self) -> Recipe:
        return Recipe.of(part(self, RecipeConfig))

    @contextmanager
    def _curves(self, folder: RunFolder, start: str, bar: tqdm[Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Draws each round of a start, and moves the bar by it."""
        from torch.utils.tensorboard import SummaryWriter

        place = folder.path / "tensorboard" / start
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:

            def draw(row: Mapping[str, Any]) -> None:
                for name in ("score", "loss", "bytes"):
                    writer.add_scalar(f"federation/{name}", row[name], row["round"])
                if row["round"]:
                    bar.update(self.clients * self.local_steps)

            yield draw

    def _federation(self) -> Federation:
        import numpy as np

        from ackd.building.students import students
        from ackd.errors import InputError
        from ackd.federation.clients import ClientSplit
        from ackd.federation.federated import Federation
        from ackd.numerics.streams import Streams

        task, (make,) = students(
            task=self.task,
            students=() if self.student is None else (self.student,),
            teacher=self.teacher,
            **part(self, DataConfig),
            **{name: value for name, value in part(self, ModelConfig).items() if name != "student"},
        )
        count = len(task.train)
        if self.public_examples >= count:
            raise InputError(f"--public-examples is {self.public_examples} of {count}: leave some to the clients")
        rng = np.random.default_rng(self.data_seed)
        order = rng.permutation(count)
        public, private = np.sort(order[: self.public_examples]), np.sort(order[self.public_examples :])
        parts = ClientSplit.parse(self.split)(task.train.labels[private], self.clients, rng)
        with Streams(self.seed).initialising():
            model = make().to("cpu")
        setting = {name: getattr(self, name) for name in ("batch_size", "lr", "device", "precision")}
        setting["recipe"] = self._recipe()
        return Federation(task, public, [private[part] for part in parts], model, self.seed, setting)


def _tabulate(result: Mapping[str, Any]) -> str:
    """A row for each start."""
    from ackd.teachers.cache.plan import readable

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
