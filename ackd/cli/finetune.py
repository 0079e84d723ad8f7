"""`ackd finetune`: a teacher for a task."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ackd.cli.options import DataOptions, OutputOptions, move, progress

if TYPE_CHECKING:
    from ackd.models import StudentFactory, Tokenizer


@dataclass(kw_only=True)
class Finetune(DataOptions, OutputOptions):
    """Fine-tune a model on a task's labels, as a teacher for the other commands."""

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    model: str | None = None
    """Folder or hub id to start from; a generated task can do without, and starts a small model from scratch."""
    epochs: float = 3.0
    """Passes over the training data."""
    lr: float = 5e-5
    """Peak learning rate."""
    batch_size: int = 32
    """Examples in a step."""
    seed: int = 0
    """Seed of everything random about the training."""
    device: str = "cpu"
    """Where the model is: cpu, cuda, cuda:1."""

    def run(self) -> None:
        """Trains, reports on dev, and saves the model under OUTPUT/model."""
        from ackd import tasks
        from ackd.checks import check_device
        from ackd.cli.results import summary
        from ackd.errors import InputError
        from ackd.loop import Distillation, distill
        from ackd.runs import RunFolder
        from ackd.sources import seen_by
        from ackd.types import Selection

        folder = RunFolder(self.output, overwrite=self.overwrite, inputs=(self.model, self.data))
        device = check_device(self.device)
        if not self.epochs > 0:
            raise InputError(f"the number of epochs must be above 0, got {self.epochs}")
        given = self.data_settings()
        spec = tasks.spec_of(self.task, **{name: given[name] for name in ("data", "text_columns", "label_column")})
        make, tokenizer = self._start(spec)
        seed, seen = given.pop("data_seed"), seen_by((), (self.model,), self.reward_from)
        task = tasks.load(self.task, tokenizer, **given, seed=seed, seen=seen)
        steps = max(round(self.epochs * len(task.train) / self.batch_size), 1)
        training = Distillation(task, (), make, steps=steps, batch_size=self.batch_size, lr=self.lr, device=device)
        folder.begin("finetune", asdict(self))
        started = time.perf_counter()
        with progress(steps, "finetune") as bar:
            distill(training, Selection(), seed=self.seed, on_phase=lambda done, _: move(bar, done))
        standings = {name: training.measure(split, name) for name, split in task.dev.items()}
        tasks.save_classifier(folder.path / "model", training.student.model, tokenizer, task)
        result = summary(task, standings, policy="labels", seed=self.seed, steps=steps)
        folder.write_json("result.json", {**result, "seconds": round(time.perf_counter() - started, 3)})
        folder.write_json("ledger.json", training.ledger.as_dict())
        print(f"{self.task}: {result['metric']} {result['dev_score']:.2f} on dev after {steps} steps")
        print(f"teacher: {folder.path / 'model'}")

    def _start(self, spec: object) -> tuple[StudentFactory, Tokenizer]:
        from ackd import models, tasks
        from ackd.errors import InputError
        from ackd.sources import student_of

        assert isinstance(spec, tasks.TaskSpec)
        if self.model is not None:
            tokenizer = models.load_tokenizer(self.model, padding=True)
            return student_of(self.model, None, None, tokenizer, spec.num_labels)[0], tokenizer
        if self.data is not None or self.task not in tasks.EMBEDDED:
            raise InputError(f"say which model to fine-tune on {self.task}: --model with a folder or a hub id")
        tokenizer = tasks.embedded_tokenizer(self.task)
        return models.from_config(models.small_config(len(tokenizer), spec.num_labels)), tokenizer
