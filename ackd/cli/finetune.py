"""`ackd finetune`: a teacher for a task."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.config import DataConfig, LengthConfig, RecipeConfig, cut, part
from ackd.experiments.options import OutputConfig
from ackd.experiments.progress import move, progress

if TYPE_CHECKING:
    from ackd.models import StudentFactory, Tokenizer

EPOCHS = 3.0  # where nobody says how long to train


@dataclass(frozen=True, kw_only=True)
class Finetune(DataConfig, LengthConfig, RecipeConfig, OutputConfig):
    """Fine-tune a model on a task's labels, as a teacher for the other commands."""

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    model: str | None = None
    """Folder or hub id to start from; a generated task can do without, and starts a small model from scratch."""
    steps: int | None = None
    """Optimizer steps; 3 epochs if neither this nor --epochs is given."""
    lr: float = 5e-5
    """Peak learning rate."""
    batch_size: int = 32
    """Examples in a step."""
    seed: int = 0
    """Seed of everything random about the training."""
    device: str = "cpu"
    """Where the model is: cpu, cuda, cuda:1."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "epochs", EPOCHS)

    def run(self) -> None:
        """Trains, reports on dev, and saves the model under OUTPUT/model."""
        from ackd import tasks
        from ackd.building.checks import check_device
        from ackd.building.sources import seen_by
        from ackd.experiments.results import summary
        from ackd.runs.folder import RunFolder
        from ackd.training.distillation import Distillation
        from ackd.training.loop import distill
        from ackd.training.recipe import Recipe, check_length, length
        from ackd.types import Selection

        folder = RunFolder(self.output, overwrite=self.overwrite, inputs=(self.model, self.data))
        device = check_device(self.device)
        check_length(self.steps, self.epochs)
        recipe = Recipe.of(part(self, RecipeConfig))
        columns: dict[str, Any] = {"text_columns": self.text_columns, "label_column": self.label_column}
        spec = tasks.spec_of(self.task, data=self.data, **columns)
        make, tokenizer = self._start(spec)
        seen = seen_by((), (self.model,), self.reward_from)
        task = tasks.load(self.task, tokenizer, data=self.data, dev_data=self.dev_data, seen=seen, **cut(self))
        steps = length(self.steps, self.epochs, examples=len(task.train), batch=self.batch_size)
        how: dict[str, Any] = {"batch_size": self.batch_size, "lr": self.lr, "recipe": recipe, "device": device}
        training = Distillation(task, (), make, steps=steps, **how)
        folder.begin("finetune", asdict(self))
        started = time.perf_counter()
        with progress(steps, "finetune") as bar:
            distill(training, Selection(), seed=self.seed, on_phase=lambda done, _: move(bar, done))
        standings = {name: training.measure(split, name) for name, split in task.dev.items()}
        tasks.save_classifier(folder.path / "model", training.student.model, task)
        result = summary(task, standings, policy="labels", seed=self.seed, steps=steps)
        folder.write_json("result.json", {**result, "seconds": round(time.perf_counter() - started, 3)})
        folder.write_json("ledger.json", training.ledger.as_dict())
        print(f"{self.task}: {result['metric']} {result['dev_score']:.2f} on dev after {steps} steps")
        print(f"teacher: {folder.path / 'model'}")

    def _start(self, spec: object) -> tuple[StudentFactory, Tokenizer]:
        from ackd import models, tasks
        from ackd.building.sources import student_of
        from ackd.errors import InputError

        assert isinstance(spec, tasks.TaskSpec)
        if self.model is not None:
            tokenizer = models.load_tokenizer(self.model, padding=True)
            return student_of(self.model, None, None, tokenizer, spec.num_labels)[0], tokenizer
        if self.data is not None or self.task not in tasks.EMBEDDED:
            raise InputError(f"say which model to fine-tune on {self.task}: --model with a folder or a hub id")
        tokenizer = tasks.embedded_tokenizer(self.task)
        return models.from_config(models.small_config(len(tokenizer), spec.num_labels)), tokenizer
