"""Pre-trains a small causal language model on a corpus."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
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
from ackd.experiments.beginning import Beginning
from ackd.experiments.language_options import PretrainConfig
from ackd.experiments.objects import by_name, placed
from ackd.experiments.progress import move, progress, say
from ackd.experiments.texts import begins_as, given_texts, language_model, language_tokenizer
from ackd.experiments.trained import Trained, leave, left
from ackd.knowledge import Tokens
from ackd.models import Config, Model, StudentFactory, Tokenizer
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
    """The training of a language model, with or without a teacher, in a run's folder.

    Args:
        config: options of the training.
        objects: student, teacher, tokenizer and texts, if given as objects.

    Raises:
        InputError: if the run's folder cannot be used.
    """

    def __init__(self, config: PretrainConfig, objects: Mapping[str, Any] | None = None) -> None:
        self.config, self.objects = config, objects or {}
        named = (config.corpus, config.student, config.teacher, config.tokenizer, config.dev_data)
        self.folder = config.run_folder(named)
        self.finished = config.finished(self.folder, "pretrain")

    def run(self) -> Trained:
        """Trains the model, measures the held-out loss, and saves the model.

        Raises:
            InputError: if an option cannot be used.
            FloatingPointError: if the training diverges.
        """
        config, folder = self.config, self.folder
        _check(config)
        device = check_device(config.device)
        tokenizer, whose = _tokenizer(config, folder, self.objects)
        teacher = _teacher(config, tokenizer, device, self.objects)
        make = _student(config, tokenizer, teacher, self.objects)
        texts = self.objects.get("texts", {})
        with ExitStack() as stack:
            corpus = stack.enter_context(
                ready(folder, config.corpus, tokenizer, config.max_length, whose, texts=texts.get("corpus"))
            )
            dev: Corpus | None = None
            if config.dev_data is not None:
                longest = corpus.header.max_length
                told = texts.get("dev_data")
                dev = stack.enter_context(ready(folder, config.dev_data, tokenizer, longest, whose, "dev", told))
            training, chosen, figures = _training(config, corpus, dev, teacher, make, device)
            folder.begin("pretrain", asdict(config), by_names=not any(self.objects.values()))
            for one in (corpus, dev):
                if one is not None:
                    kept_in(folder, one)
        say(Beginning.of(training, rewarded=False).lines, quiet=config.quiet)
        replay_log = config.replay_log(folder.path / "checkpoint")
        started = time.perf_counter()
        curve = self._curve(training, chosen, replay_log)
        (name, split), *_ = training.task.dev.items()
        eval_result = training.evaluate(split, name)
        counts = copy.deepcopy(training.costs)  # excludes the comparison with the teacher
        result = {**_result(config, training, teacher, eval_result), **figures, "corpus": corpus.header.fingerprint}
        result |= {"seed": config.seed, "seconds": round(time.perf_counter() - started, 3)}
        folder.write_text("curve.csv", "\n".join(curve) + "\n")
        model = training.student.model
        write = partial(models.save_model, model=model, tokenizer=tokenizer)
        trained = Trained(result, counts, model, write, tokenizer=tokenizer)
        trained = leave(folder, trained, training, timed=not config.quiet)
        replay_log.finish()
        return trained

    def _curve(self, training: Distillation, chosen: Selection, replay_log: ReplayLog) -> list[str]:
        """Trains the model to the end; returns the lines of the curve."""
        training.replay(replay_log)
        curve = [CURVE]
        with progress(training.steps, "pretrain", quiet=self.config.quiet) as bar:

            def note(done: int, report: Any) -> None:
                kd = report.losses.get("tokens", math.nan)
                numbers = (report.loss, report.labels, kd, report.grad_norm, report.accuracy)
                curve.append(",".join([str(done), *(f"{number:.6g}" for number in numbers)]))
                move(bar, done, report)

            distill(training, chosen, seed=self.config.seed, interval=INTERVAL, on_phase=note)
        return curve


def _result(
    config: PretrainConfig, training: Distillation, teacher: ModelTeacher | None, eval_result: EvalResult
) -> dict[str, Any]:
    """The scores of student and teacher on held-out text."""
    (name, split), *_ = training.task.dev.items()
    return {
        "task": "language",
        "metric": "loss",
        "lower_is_better": True,
        "dev_loss": eval_result.loss,
        "dev_perplexity": math.exp(min(eval_result.loss, 700.0)),
        "dev_accuracy": eval_result.scores["accuracy"],
        "dev_tokens": int(split.predicted.sum()),
        "teacher_loss": training.measure_teacher(split, name).loss if teacher is not None else None,
        "kd_weight": config.kd_weight if teacher is not None else None,
    }


def _check(config: PretrainConfig) -> None:
    """Checks the options before anything is read."""
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


def _goes_on(config: PretrainConfig, objects: Mapping[str, Any]) -> bool:
    """Whether the student starts from an existing model."""
    source = objects.get("student", config.student)
    return begins_as_model(source) or not (isinstance(source, (str, Path)) or models.is_config(source))


def _tokenizer(config: PretrainConfig, folder: RunFolder, objects: Mapping[str, Any]) -> tuple[Tokenizer, str]:
    """The student's tokenizer, and its name for messages."""
    if (given := objects.get("tokenizer")) is not None:
        return given, "the tokenizer"
    named = config.tokenizer or config.teacher or (config.student if _goes_on(config, objects) else None)
    if named is not None:
        whose = None if config.tokenizer else objects.get("teacher" if config.teacher else "student")
        return language_tokenizer(named if whose is None else whose), named
    if folder.resumed and corpora.find_corpus(folder.path) is not None:
        return corpora.open_corpus(folder.path).tokenizer(), config.corpus
    documents = objects.get("texts", {}).get("corpus")
    if documents is not None or Path(config.corpus).is_file():
        texts = (one.text for one in documents or corpora.documents(config.corpus))
        return models.train_tokenizer(texts, config.vocabulary), config.corpus
    return corpora.open_corpus(config.corpus).tokenizer(), config.corpus


def _teacher(
    config: PretrainConfig, tokenizer: Tokenizer, device: torch.device, objects: Mapping[str, Any]
) -> ModelTeacher | None:
    if config.teacher is None:
        return None
    source = objects.get("teacher", config.teacher)
    if not models.same_vocabulary(language_tokenizer(source, tokenizer), tokenizer):
        raise InputError(
            f"the teacher {config.teacher} has another vocabulary than {config.tokenizer}: its distributions over "
            "tokens cannot be learned from; refine the corpus with it instead (ackd refine-data --retokenise)"
        )
    return ModelTeacher(language_model(source, device, f"the teacher {config.teacher}"), precision=config.precision)


def _student(
    config: PretrainConfig, tokenizer: Tokenizer, teacher: ModelTeacher | None, objects: Mapping[str, Any]
) -> StudentFactory:
    """The factory of students; one student is made as a check."""
    assert config.student is not None
    if not _goes_on(config, objects):
        size = teacher.shape.vocabulary if teacher is not None else None
        wanted = objects.get("student", config.student)
        make = models.from_config(models.language_config(wanted, tokenizer, size), language=True)
    elif "student" in objects:
        make = begins_as(objects["student"], "the student")
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
    """The training, its selection, and its planned costs."""
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


def pretrain(
    corpus: Any,
    *,
    student: str | Path | Model | Config | None = None,
    teacher: str | Path | Model | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Trained:
    """Trains a causal language model on text, with or without a teacher's next-token distributions.

    Args:
        corpus: a text file, the folder of a corpus, a `Dataset` with a column `text`, or a list of texts.
        student: a folder, a hub id or a transformers model to start from; or a config (an object or a JSON file) for
            random weights.
        teacher: a folder, a hub id or a transformers model, which is then frozen and converted to float32.
        tokenizer: tokenizer of the texts, and of models given as objects.
        output: folder of the run; `resume=True` continues it; nothing is saved if None.
        **options: the other fields of `PretrainConfig`; `dev_data` has the same types as `corpus`.

    Returns:
        The training's result; its `score` is the loss on held-out text.

    Raises:
        InputError: in one sentence, if an argument cannot be used.
        FloatingPointError: if the training diverges.
    """
    given = {"corpus": corpus, "student": student, "teacher": teacher, "tokenizer": tokenizer, **options}
    named, texts = given_texts(given, "corpus", "dev_data")
    if isinstance(tokenizer, (str, Path)):
        plain, objects = by_name({**named, "tokenizer": None}, "student", "teacher")
        plain["tokenizer"] = tokenizer
    else:
        plain, objects = by_name(named, "student", "teacher")
    with placed(output) as folder:
        config = checked(PretrainConfig, {**plain, "output": folder})
        training = Pretraining(config, {**objects, "texts": texts})
        return left(training.folder) if training.finished else training.run()
