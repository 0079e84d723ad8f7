"""`ackd federate`: a simulated federation, from a plain and from a distilled start."""

from __future__ import annotations

import csv
import io
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.cli.options import DataOptions, ModelOptions, RunOptions, progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    from ackd.federated import Federation, Weights
    from ackd.ledger import Ledger
    from ackd.runs import RunFolder

logger = logging.getLogger("ackd")

STARTS = ("initial", "labels", "distilled")
COLUMNS = ("start", "round", "score", "loss", "bytes_down", "bytes_up", "bytes")


@dataclass(kw_only=True)
class Federate(DataOptions, ModelOptions, RunOptions):
    """Simulate a federation: clients with their own parts of the training data, averaged by FedAvg, from the starting
    model and from one that was distilled from the clients' own models.

    Every client takes part in every round. A round's score is that of the reward split, which the server holds; dev is
    read at the end. Neither steers anything.
    """

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name where --data is a file."""
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
        from ackd.cli.results import ledger_lines
        from ackd.ledger import Ledger
        from ackd.models import save_model
        from ackd.sources import find_tokenizer

        folder = self.run_folder((self.teacher, self.student, self.data))
        if folder.finished:
            print(f"the run in {self.output} is finished: nothing is left to resume")
            return
        self._check()
        federation = self._federation()
        folder.begin("federate", asdict(self))
        started, total = time.perf_counter(), Ledger()
        initial = federation.weights_of(federation.model)
        steps = self.clients * (self.own_steps + len(self.starts) * self.rounds * self.local_steps)
        with progress(steps, "federate") as bar:
            own = self._own(folder, federation, initial, total, bar)
            ends, rows = {}, []
            for start in self.starts:
                end, mine, ledger = self._rounds(folder, federation, start, initial, own, bar)
                ends[start] = end
                rows += mine
                total.add(ledger)
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        folder.write_text("table.csv", file.getvalue())
        result = self._result(federation, initial, own, ends, rows, total)
        text = _tabulate(result)
        folder.write_text("table.md", text + "\n")
        best = max(self.starts, key=lambda start: (result["starts"][start]["score"], -result["starts"][start]["loss"]))
        tokenizer = find_tokenizer(self.task, [self.teacher] if self.teacher else [], self.student)
        save_model(folder.path / "student", federation.holding(ends[best]), tokenizer)
        folder.write_json("ledger.json", total.as_dict())
        seconds = round(time.perf_counter() - started, 3)
        folder.write_json("result.json", {**result, "saved": best, "seconds": seconds})
        shutil.rmtree(folder.path / "checkpoint", ignore_errors=True)
        print(text)
        print(ledger_lines(total))
        print(f"student: {folder.path / 'student'} ({best})\ncurves:  tensorboard --logdir {folder.path}")

    def _check(self) -> None:
        from ackd.clients import ClientSplit
        from ackd.errors import InputError, unknown

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

    def _federation(self) -> Federation:
        import numpy as np

        from ackd.clients import ClientSplit
        from ackd.errors import InputError
        from ackd.federated import Federation
        from ackd.sources import students
        from ackd.streams import Streams

        task, (make,), _ = students(
            task=self.task,
            students=() if self.student is None else (self.student,),
            teacher=self.teacher,
            **self.data_settings(),
            **{name: value for name, value in self.model_settings().items() if name != "student"},
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
        return Federation(task, public, [private[part] for part in parts], model, self.seed, setting)

    def _own(
        self, folder: RunFolder, federation: Federation, initial: Weights, total: Ledger, bar: tqdm[Any]
    ) -> list[Weights]:
        """The models that the clients train by themselves."""
        from ackd.ledger import Ledger

        models = []
        for client in range(self.clients):
            path = folder.path / "checkpoint" / f"client-{client}.pt"
            state = _read(path)
            if state is None:
                ledger = Ledger()
                weights = federation.learn(client, initial, steps=self.own_steps, turn=0, ledger=ledger)
                state = {"weights": weights, "ledger": ledger.as_dict()}
                _write(path, state)
            models.append(state["weights"])
            total.add(Ledger(**state["ledger"]))
            bar.update(self.own_steps)
        return models

    def _rounds(
        self,
        folder: RunFolder,
        federation: Federation,
        start: str,
        initial: Weights,
        own: Sequence[Weights],
        bar: tqdm[Any],
    ) -> tuple[Weights, list[dict[str, Any]], Ledger]:
        """FedAvg from a start: what it ends with, a row for each round and for the start itself, and what it took."""
        from torch.utils.tensorboard import SummaryWriter

        from ackd.ledger import Ledger

        path = folder.path / "checkpoint" / f"{start}.pt"
        state = _read(path)
        everyone = self.clients * federation.size
        if state is None:
            ledger, exchanged = Ledger(), everyone if start == "distilled" else 0
            weights = initial
            if start != "initial":
                models = own if start == "distilled" else ()
                weights = federation.consolidate(
                    models,
                    initial,
                    steps=self.distil_steps,
                    alpha=self.kd_weight,
                    tau=self.temperature,
                    ledger=ledger,
                )
            state = {"weights": weights, "rows": [], "ledger": ledger.as_dict()}
            state = self._scored(federation, state, weights, start, exchanged)
            _write(path, state)
        curves = folder.path / "tensorboard" / start
        shutil.rmtree(curves, ignore_errors=True)
        with SummaryWriter(str(curves)) as writer:
            for row in state["rows"]:
                _draw(writer, row)
            bar.update((len(state["rows"]) - 1) * self.clients * self.local_steps)
            for turn in range(len(state["rows"]), self.rounds + 1):
                ledger = Ledger(**state["ledger"])
                weights = federation.round(state["weights"], steps=self.local_steps, turn=turn, ledger=ledger)
                state = self._scored(federation, {**state, "ledger": ledger.as_dict()}, weights, start, everyone)
                _write(path, state)
                _draw(writer, state["rows"][-1])
                bar.update(self.clients * self.local_steps)
        return state["weights"], state["rows"], Ledger(**state["ledger"])

    def _scored(
        self, federation: Federation, state: Mapping[str, Any], weights: Weights, start: str, sent: int
    ) -> dict[str, Any]:
        """The state after another round that ended with `weights`, for which so many bytes were sent either way."""
        from ackd.ledger import Ledger

        ledger, reward = Ledger(**state["ledger"]), federation.task.reward
        standing = federation.judge(federation.answers(weights, reward, "reward", ledger), reward)
        before = state["rows"][-1]["bytes"] if state["rows"] else 0
        row = {
            "start": start,
            "round": len(state["rows"]),
            "score": round(100 * standing.score, 4),
            "loss": standing.loss,
            "bytes_down": sent,
            "bytes_up": sent,
            "bytes": before + 2 * sent,
        }
        return {"weights": weights, "rows": [*state["rows"], row], "ledger": ledger.as_dict()}

    def _result(
        self,
        federation: Federation,
        initial: Weights,
        own: Sequence[Weights],
        ends: Mapping[str, Weights],
        rows: Sequence[Mapping[str, Any]],
        total: Ledger,
    ) -> dict[str, Any]:
        """The fields of `result.json`; here, and only here, dev is read."""
        from ackd.clients import shares
        from ackd.federated import flips, on_own_classes, rounds_to

        task, spec = federation.task, federation.task.spec
        name, dev = next(iter(task.dev.items()))

        def asked(weights: Weights) -> Any:
            return federation.answers(weights, dev, "report", total)

        before, locals_ = asked(initial), [asked(weights) for weights in own]
        initial_score = 100 * federation.judge(before, dev).score
        labels = [task.train.labels[part] for part in federation.parts]
        owned = [] if spec.regression else [shares(those, spec.num_labels) for those in labels]

        def drop(after: Any) -> float | None:
            """By how much the clients' own models were better on their own classes, in points."""
            pairs = [
                (on_own_classes(mine.argmax(1), dev.labels, kinds), on_own_classes(after.argmax(1), dev.labels, kinds))
                for mine, kinds in zip(locals_, owned, strict=False)
            ]
            drops = [100 * (mine - now) for mine, now in pairs if mine is not None and now is not None]
            return round(sum(drops) / len(drops), 4) if drops else None

        starts = {}
        for start in self.starts:
            after = asked(ends[start])
            scores = [row["score"] for row in rows if row["start"] == start]
            reached = None if self.target is None else rounds_to(scores, self.target)
            score = 100 * federation.judge(after, dev).score
            positive, negative = (
                (None, None) if spec.regression else flips(before.argmax(1), after.argmax(1), dev.labels)
            )
            starts[start] = {
                "score": scores[-1],
                "loss": next(row["loss"] for row in reversed(rows) if row["start"] == start),
                "start_score": scores[0],
                "rounds_to_target": reached,
                "exchanges_to_target": None if reached is None else reached + (start == "distilled"),
                "bytes": [row["bytes"] for row in rows if row["start"] == start][-1],
                "dev_score": round(score, 4),
                "gain": round(score - initial_score, 4),
                "forgetting": drop(after),
                "positive_flips": None if positive is None else round(100 * positive, 4),
                "negative_flips": None if negative is None else round(100 * negative, 4),
            }
        local_scores = [round(100 * federation.judge(mine, dev).score, 4) for mine in locals_]
        return {
            "task": spec.name,
            "metric": spec.metrics[0],
            "policy": "federated",
            "dev": name,
            "dev_score": starts[self.starts[-1]]["dev_score"],
            "initial_dev_score": round(initial_score, 4),
            "client_dev_scores": local_scores,
            "client_examples": [len(part) for part in federation.parts],
            "client_shares": [[round(float(share), 4) for share in those] for those in owned],
            "target": self.target,
            "model_bytes": federation.size,
            "seed": self.seed,
            "starts": starts,
        }


def _tabulate(result: Mapping[str, Any]) -> str:
    """A row for each start."""
    from ackd.plan import readable

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


def _draw(writer: SummaryWriter, row: Mapping[str, Any]) -> None:
    """A round's curves."""
    for name in ("score", "loss", "bytes"):
        writer.add_scalar(f"federation/{name}", row[name], row["round"])


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Keeps a state on disk, whole or not at all."""
    import torch

    from ackd.runs import write_whole

    file = io.BytesIO()
    torch.save(dict(state), file)
    write_whole(path, file.getvalue())


def _read(path: Path) -> dict[str, Any] | None:
    """The state that was kept; None if there is none that can be read."""
    import torch

    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        logger.warning("%s is damaged (%s): its part of the run begins again", path, str(error).split("\n")[0])
        return None
    return state
