"""`ackd mutual`: students that teach each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.config import DataConfig, Precision, RecipeConfig, TrainingConfig, part
from ackd.experiments.options import RunConfig
from ackd.experiments.progress import move, progress

if TYPE_CHECKING:
    from ackd.types import Report

INTERVAL = 20  # optimizer steps between two points of the curves
COLUMNS = ("step", "student", "label_loss", "peer_loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Mutual(DataConfig, TrainingConfig, RunConfig):
    """Train two or more students side by side, each learning from the labels and from the others (deep mutual
    learning). The one that stands best on the reward split is saved.
    """

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    students: tuple[str, ...]
    """Two or more: folder or hub id to start from, or a JSON config to draw weights for; the same one may be named
    again where its weights are drawn. All share one tokenizer."""
    peer_dropout: bool = True
    """Students answer each other with their dropout on, as the paper's do."""
    seed: int = 0
    """Seed of data order and dropout; each student draws its weights from a seed of its own, counted from here."""
    device: str = "cpu"
    """Where the students are: cpu, cuda, cuda:1."""
    precision: Precision = "fp32"
    """What the models compute in; weights, optimizer and losses are in float32 either way."""

    def run(self) -> None:
        """Trains, chooses on the reward split, reports every student on dev, and saves the chosen one."""
        from ackd.building.students import students
        from ackd.experiments.results import ledger_lines, summary
        from ackd.experiments.student_card import Origin, write_card
        from ackd.federation.mutual import MutualLearning
        from ackd.tasks import save_classifier
        from ackd.training.recipe import Recipe, length

        folder = self.run_folder((*self.students, self.data))
        if self.finished(folder, "mutual"):
            return
        where: dict[str, Any] = {"device": self.device, "precision": self.precision}
        task, factories = students(task=self.task, students=self.students, **part(self, DataConfig), **where)
        how: dict[str, Any] = dict(where)
        how["steps"] = length(
            self.steps, self.epochs, examples=len(task.train), batch=self.batch_size * self.accumulate
        )
        how |= {name: getattr(self, name) for name in ("batch_size", "accumulate", "lr")}
        how |= {"recipe": Recipe.of(part(self, RecipeConfig)), "compiled": self.compile}
        learning = MutualLearning(task, factories, dropout=self.peer_dropout, **how)
        folder.begin("mutual", asdict(self))
        started = time.perf_counter()
        journal = self.journal(folder.path / "checkpoint")
        learning.replay(journal)
        with progress(learning.steps, "mutual") as bar:
            learning.reset(self.seed)
            curve = [",".join(COLUMNS)]
            while learning.steps_done < learning.steps:
                reports = learning.advance(INTERVAL)
                curve += _points(learning.steps_done, reports)
                move(bar, learning.steps_done)
        folder.write_text("curve.csv", "\n".join(curve) + "\n")
        rewards = learning.measure(task.reward, "reward")
        best = max(range(len(rewards)), key=lambda k: (rewards[k].score, -rewards[k].loss))
        dev = {name: learning.measure(split, name) for name, split in task.dev.items()}
        cells = [
            {
                "student": name,
                "reward_score": round(100 * rewards[k].score, 4),
                "dev_score": round(100 * next(iter(dev.values()))[k].score, 4),
            }
            for k, name in enumerate(self.students)
        ]
        model = learning.peers[best].student.model
        save_classifier(folder.path / "student", model, task)
        folder.write_json("ledger.json", learning.ledger.as_dict())
        result = summary(
            task,
            {name: those[best] for name, those in dev.items()},
            policy="mutual",
            seed=self.seed,
            steps=learning.steps,
            chosen=best + 1,
            students=cells,
            seconds=round(time.perf_counter() - started, 3),
        )
        made = f"deep mutual learning of {len(self.students)} students, of which this is number {best + 1}"
        origin = Origin(task, model, result, learning.ledger, {"made by": made}, peers=self.students)
        write_card(folder.path / "student", folder.settings, origin)
        folder.write_json("result.json", result)
        journal.finish()
        for k, cell in enumerate(cells):
            print(
                f"{k + 1}. {cell['student']}: {result['metric']} {cell['reward_score']:.2f} on the reward split, "
                f"{cell['dev_score']:.2f} on dev{', chosen' * (k == best)}"
            )
        print(f"{ledger_lines(learning.ledger)}\nstudent: {folder.path / 'student'}")


def _points(step: int, reports: Sequence[Sequence[Report[float]]]) -> list[str]:
    """A line of the curves for each student: means over the steps that were just taken."""
    lines = []
    for k, own in enumerate(zip(*reports, strict=True)):
        peers = [sum(one.losses.values()) / len(one.losses) for one in own]
        means = (sum(values) / len(own) for values in ([one.labels for one in own], peers, [r.accuracy for r in own]))
        lines.append(",".join([str(step), str(k + 1), *(f"{mean:.6g}" for mean in means)]))
    return lines
