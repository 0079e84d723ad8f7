"""Fine-tunes a model on a task's labels, as a teacher or for direct use."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ackd import models, tasks
from ackd.building.checks import check_device
from ackd.building.sources import StudentSource, seen_by, student_of, tokenizer_of
from ackd.config import RecipeConfig, checked, cut, part
from ackd.errors import InputError
from ackd.experiments.beginning import Beginning
from ackd.experiments.objects import ALWAYS, by_name, placed
from ackd.experiments.progress import move, progress, say
from ackd.experiments.results import summary
from ackd.experiments.student_options import FinetuneConfig
from ackd.experiments.trained import Trained, leave
from ackd.models import StudentFactory, Tokenizer
from ackd.tasks.data_sets import Data
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.training.recipe import Recipe, check_length, length
from ackd.types import Selection

MODEL = "model"  # in the run's folder


class Finetuning:
    """The training of a model on labels alone.

    Args:
        config: options of the training.
        **objects: model, tokenizer and data, if given as objects.

    Raises:
        InputError: if an option in `config` cannot be used.
    """

    def __init__(self, config: FinetuneConfig, **objects: Any) -> None:
        self.config, self.by_names = config, not objects
        self.folder = config.run_folder((config.model, config.data))
        device = check_device(config.device)
        check_length(config.steps, config.epochs)
        recipe = Recipe.of(part(config, RecipeConfig))
        data, model = objects.get("data", config.data), objects.get("model", config.model)
        columns: dict[str, Any] = {"text_columns": config.text_columns, "label_column": config.label_column}
        spec = tasks.spec_of(config.task, data=data, **columns)
        tasks.check_labels(spec, "fine-tuning")
        make, its = _start(config, model, objects.get("tokenizer"), spec)
        seen = seen_by((), (model,), config.reward_from)
        dev_data = objects.get("dev_data", config.dev_data)
        task = tasks.load(config.task, its, data=data, dev_data=dev_data, seen=seen, **cut(config))
        task = task.judged_by(objects.get("compute_metrics"))
        steps = length(config.steps, config.epochs, examples=len(task.train), batch=config.batch_size)
        how: dict[str, Any] = {"batch_size": config.batch_size, "lr": config.lr, "recipe": recipe, "device": device}
        self.training = Distillation(task, (), make, steps=steps, **how)

    def run(self) -> Trained:
        """Trains the model, evaluates it on dev, and saves it in the run's folder."""
        training, seed = self.training, self.config.seed
        self.folder.begin("finetune", asdict(self.config), by_names=self.by_names)
        say(Beginning.of(training, rewarded=False).lines, quiet=self.config.quiet)
        started = time.perf_counter()
        with progress(training.steps, "finetune", quiet=self.config.quiet) as bar:
            distill(training, Selection(), seed=seed, on_phase=partial(move, bar))
        eval_results = {name: training.evaluate(split, name) for name, split in training.task.dev.items()}
        seconds = round(time.perf_counter() - started, 3)
        how: dict[str, Any] = {"policy": "labels", "seed": seed, "steps": training.steps, "seconds": seconds}
        model = training.student.model
        write = partial(tasks.save_trained, model=model, task=training.task)
        result, its = summary(training.task, eval_results, **how), training.task.tokenizer
        trained = Trained(result, training.costs, model, write, tokenizer=its)
        trained = leave(self.folder, trained, training, MODEL, timed=not self.config.quiet)
        tasks.note_seen(model, training.task.seen)
        return trained


def _start(
    config: FinetuneConfig, model: StudentSource | None, tokenizer: Tokenizer | None, spec: tasks.TaskSpec
) -> tuple[StudentFactory, Tokenizer]:
    """The factory of the initial model, and its tokenizer."""
    if model is not None:
        if isinstance(model, (str, Path)):
            its = models.load_tokenizer(model, padding=True)
        else:
            its = tokenizer_of(model, tokenizer)
        return student_of(model, None, None, its, spec.num_labels)[0], its
    if config.data is not None or config.task not in tasks.EMBEDDED:
        raise InputError(f"say which model to fine-tune on {config.task}: --model with a folder or a hub id")
    its = tasks.embedded_tokenizer(config.task)
    return models.from_config(models.small_config(len(its), spec.num_labels)), its


def finetune(
    model: StudentSource | None = None,
    data: Data | None = None,
    *,
    task: str = "data",
    tokenizer: Tokenizer | None = None,
    compute_metrics: tasks.ComputeMetrics | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Trained:
    """Fine-tunes a copy of a model on a task's labels.

    Args:
        model: a folder or hub id to start from, or a transformers model with one output per class of the task.
        data: training data, as for `ackd.prepare`.
        task: a GLUE task, a generated one, or any name for data of your own.
        tokenizer: tokenizer of a model given as an object; if None, the one in its folder.
        compute_metrics: as for `ackd.prepare`.
        output: folder for the run with the model; nothing is saved if None.
        **options: the other fields of `FinetuneConfig`, such as `epochs` and `lr`; `dev_data` may be a `Dataset`.

    Returns:
        The training's result, with `score`, `model` and `save(folder)`.

    Raises:
        InputError: in one sentence, if an argument cannot be used.

    Example:
        teacher = finetune("bert-base-uncased", load_dataset("nyu-mll/glue", "sst2"), epochs=3)
    """
    given = {"task": task, "model": model, "data": data, "tokenizer": tokenizer, **options}
    given["compute_metrics"] = compute_metrics
    plain, objects = by_name(given, "model", "data", "dev_data", "compute_metrics")
    with placed(output) as folder:
        config = checked(FinetuneConfig, {**plain, "output": folder}, others=ALWAYS)
        return Finetuning(config, **objects).run()
