"""A small causal language model, trained on a corpus."""

from __future__ import annotations

import copy
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ackd import corpora, models
from ackd.building.checks import check_device
from ackd.building.sources import begins_as_model
from ackd.config import RecipeConfig, checked, part
from ackd.corpora import Corpus
from ackd.corpora.of_runs import kept_in, ready
from ackd.errors import InputError, reason
from ackd.experiments.language_options import PretrainConfig
from ackd.experiments.objects import placed
from ackd.experiments.progress import move, progress
from ackd.experiments.trained import Trained, leave, left
from ackd.knowledge import Tokens
from ackd.models import StudentFactory, Tokenizer
from ackd.runs.folder import RunFolder
from ackd.teachers import ModelTeacher
from ackd.training.budget import afford
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.training.recipe import Recipe, check_length, length
from ackd.training.replay_log import ReplayLog
from ackd.types import EvalResult, Selection

INTERVAL = 20  # optimizer steps between two points of the curve
CURVE = "step,loss,lm_loss,kd_loss,grad_norm,accuracy"


class Pretraining:
    """A language model's training, with or without a teacher, in a run's folder.

    Args:
        config: who learns from what, and how.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        named = (config.corpus, config.student, config.teacher, config.tokenizer, config.dev_data)
        self.folder = config.run_folder(named)
        self.finished = config.finished(self.folder, "pretrain")

    def run(self) -> Trained:
        """Trains, measures the held-out loss, and leaves the model.

        Raises:
            InputError: if anything cannot work.
            FloatingPointError: if the training diverges.
        """
        config, folder = self.config, self.folder
        _check(config)
        device = check_device(config.device)
        tokenizer, whose = _tokenizer(config, folder)
        teacher = _teacher(config, tokenizer, device)
        make = _student(config, tokenizer, teacher)
        with ExitStack() as stack:
            corpus = stack.enter_context(ready(folder, config.corpus, tokenizer, config.max_length, whose))
            dev: Corpus | None = None
            if config.dev_data is not None:
                longest = corpus.header.max_length
                dev = stack.enter_context(ready(folder, config.dev_data, tokenizer, longest, whose, "dev"))
            training, chosen, figures = _training(config, corpus, dev, teacher, make, device)
            folder.begin("pretrain", asdict(config))
            for one in (corpus, dev):
                if one is not None:
                    kept_in(folder, one)
        replay_log = config.replay_log(folder.path / "checkpoint")
        started = time.perf_counter()
        curve = self._curve(training, chosen, replay_log)
        (name, split), *_ = training.task.dev.items()
        standing = training.evaluate(split, name)
        counts = copy.deepcopy(training.costs)  # what the teacher is compared for is no part of them
        result = {**_result(config, training, teacher, standing), **figures, "corpus": corpus.header.fingerprint}
        result |= {"seed": config.seed, "seconds": round(time.perf_counter() - started, 3)}
        folder.write_text("curve.csv", "\n".join(curve) + "\n")
        model = training.student.model
        write = partial(models.save_model, model=model, tokenizer=tokenizer)
        trained = Trained(result, counts, model, write)
        leave(folder, trained)
        replay_log.finish()
        return trained

    def _curve(self, training: Distillation, chosen: Selection, replay_log: ReplayLog) -> list[str]:
        """Trains to the end; the lines of the curve."""
        training.replay(replay_log)
        curve = [CURVE]
        with progress(training.steps, "pretrain") as bar:

            def note(done: int, report: Any) -> None:
                kd = report.losses.get("tokens", math.nan)
                numbers = (report.loss, report.labels, kd, report.grad_norm, report.accuracy)
                curve.append(",".join([str(done), *(f"{number:.6g}" for number in numbers)]))
                move(bar, done)

            distill(training, chosen, seed=self.config.seed, interval=INTERVAL, on_phase=note)
        return curve


def _result(
    config: PretrainConfig, training: Distillation, teacher: ModelTeacher | None, standing: EvalResult
) -> dict[str, Any]:
    """How the student and its teacher do on held-out text."""
    (name, split), *_ = training.task.dev.items()
    return {
        "task": "language",
        "metric": "loss",
        "lower_is_better": True,
        "dev_loss": standing.loss,
        "dev_perplexity": math.exp(min(standing.loss, 700.0)),
        "dev_accuracy": standing.scores["accuracy"],
        "dev_tokens": int(split.predicted.sum()),
        "teacher_loss": training.measure_teacher(split, name).loss if teacher is not None else None,
        "kd_weight": config.kd_weight if teacher is not None else None,
    }


def _check(config: PretrainConfig) -> None:
    """Refuses what cannot be before anything is read."""
    if config.student is None:
        raise InputError("say what the student is: --student with a JSON config, a folder or a hub id")
    check_length(config.steps, config.epochs)
    said = [name for name in ("steps", "epochs", "flops") if getattr(config, name) is not None]
    if len(said) > 1:
        raise InputError(f"--{said[0]} and --{said[1]} both say how long to train: name one of them")
    if config.flops is not None and not 0 < config.flops < math.inf:
        raise InputError(f"the FLOPs must be above 0, got {config.flops}")
    Recipe.of(part(config, RecipeConfig))
    for name, value in (("batch size", config.batch_size), ("batches of a step", config.accumulate)):
        if value < 1:
            raise InputError(f"the {name} must be above 0, got {value}")
    if config.teacher is not None and not 0 <= config.kd_weight <= 1:
        raise InputError(f"the weight of the teacher is {config.kd_weight}: give 0 to 1")


def _tokenizer(config: PretrainConfig, folder: RunFolder) -> tuple[Tokenizer, str]:
    """Whose tokens the student reads, and what to call it."""
    named = config.tokenizer or config.teacher or (config.student if begins_as_model(config.student) else None)
    if named is not None:
        return models.load_tokenizer(named), named
    if folder.resumed and corpora.find_corpus(folder.path) is not None:
        return corpora.open_corpus(folder.path).tokenizer(), config.corpus
    if Path(config.corpus).is_file():
        texts = (one.text for one in corpora.documents(config.corpus))
        return models.train_tokenizer(texts, config.vocabulary), config.corpus
    return corpora.open_corpus(config.corpus).tokenizer(), config.corpus


def _teacher(config: PretrainConfig, tokenizer: Tokenizer, device: torch.device) -> ModelTeacher | None:
    if config.teacher is None:
        return None
    if not models.same_vocabulary(models.load_tokenizer(config.teacher), tokenizer):
        raise InputError(
            f"the teacher {config.teacher} has another vocabulary than {config.tokenizer}: its distributions over "
            "tokens cannot be learned from; refine the corpus with it instead (ackd refine-data --retokenise)"
        )
    model = models.load_model(config.teacher, device=device, language=True)
    models.check_causal(model, f"the teacher {config.teacher}")
    return ModelTeacher(model, precision=config.precision)


def _student(config: PretrainConfig, tokenizer: Tokenizer, teacher: ModelTeacher | None) -> StudentFactory:
    """What makes students, of which one is made to see that it can be."""
    assert config.student is not None
    if not begins_as_model(config.student):
        size = teacher.shape.vocabulary if teacher is not None else None
        make = models.from_config(models.language_config(config.student, tokenizer, size), language=True)
    else:
        if not models.same_vocabulary(models.load_tokenizer(config.student), tokenizer):
            raise InputError(
                f"the student {config.student} has another vocabulary than {config.tokenizer or config.teacher}"
            )
        make = models.from_checkpoint(config.student)
    try:
        with torch.random.fork_rng():
            one = make()
            size = models.shape_of(one).vocabulary
            models.check_causal(one, f"the student {config.student}")
    except (ValueError, TypeError, AttributeError, RuntimeError, AssertionError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{config.student} makes no causal language model ({reason(error)})") from error
    if teacher is not None and size != teacher.shape.vocabulary:
        raise InputError(
            f"the student answers with {size} tokens and the teacher {config.teacher} with "
            f"{teacher.shape.vocabulary}: they need the same vocabulary"
        )
    if size < models.vocabulary_size(tokenizer):
        raise InputError(f"the student has a vocabulary of {size}, less than its tokenizer")
    return make


def _training(
    config: PretrainConfig,
    corpus: Corpus,
    dev: Corpus | None,
    teacher: ModelTeacher | None,
    make: StudentFactory,
    device: torch.device,
) -> tuple[Distillation, Selection, dict[str, Any]]:
    """The training, what it transfers, and what it will have taken in the end."""
    blocks = corpora.part(len(corpus), config.part)
    task, (first, last) = corpora.language_task(corpus, blocks, dev, config.dev_share)
    passes = config.epochs if config.epochs is not None or config.steps is not None else 1.0
    batch = config.batch_size * config.accumulate
    training = Distillation(
        task,
        (teacher,) if teacher is not None else (),
        make,
        (lambda: [Tokens()]) if teacher is not None else tuple,
        steps=length(config.steps, passes, examples=len(task.train), batch=batch),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        lr=config.lr,
        recipe=Recipe.of(part(config, RecipeConfig)),
        scale_steps=0,
        device=device,
        precision=config.precision,
        compiled=config.compile,
    )
    longest = max(int(split.lengths.max()) for split in (task.train, *task.dev.values())) - 1
    models.check_length(training.student.model, longest, f"the student {config.student}")
    chosen = Selection()
    if teacher is not None:
        models.check_length(teacher.model, longest, f"the teacher {config.teacher}")
        chosen = Selection({"tokens": config.kd_weight}, labels=1 - config.kd_weight)
    training.steps, flops, tokens = afford(training, chosen, config.flops, config.seed)
    taken = round(training.steps * batch / len(task.train), 4)
    figures = {"steps": training.steps, "tokens": tokens, "passes": taken, "flops": flops}
    return training, chosen, {**figures, "first": first, "last": last}


def pretrain(corpus: str | Path, *, output: str | Path | None = None, **options: Any) -> Trained:
    """Trains a causal language model on text, with or without a teacher's next-token distributions.

    Args:
        corpus: a text file, or the folder of a corpus.
        output: folder for the run, which `resume=True` goes on with; nothing is kept if None.
        **options: the other fields of `PretrainConfig`, such as `student`, a model or a JSON config, and `teacher`.

    Returns:
        The model, whose `score` is the loss on held-out text.

    Raises:
        InputError: if any of it cannot work, in one sentence.
        FloatingPointError: if the training diverges.
    """
    with placed(output) as folder:
        training = Pretraining(checked(PretrainConfig, {"corpus": corpus, "output": folder, **options}))
        return left(training.folder) if training.finished else training.run()
