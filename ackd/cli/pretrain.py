"""`ackd pretrain`: a small causal language model, on a corpus."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.config import LengthConfig, Precision, RecipeConfig, part
from ackd.experiments.options import RunConfig
from ackd.experiments.progress import move, progress

if TYPE_CHECKING:
    import torch

    from ackd.corpora import Corpus
    from ackd.models import StudentFactory, Tokenizer
    from ackd.runs.folder import RunFolder
    from ackd.teachers import ModelTeacher
    from ackd.training.distillation import Distillation
    from ackd.types import Selection, Standing

INTERVAL = 20  # optimizer steps between two points of the curve


@dataclass(frozen=True, kw_only=True)
class Pretrain(RunConfig, LengthConfig, RecipeConfig):
    """Pre-train a causal language model on text, with or without a teacher's next-token distributions."""

    corpus: str
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder of ours."""
    config: str | None = None
    """The student: a JSON config to draw weights for, such as {"model_type": "gpt2", "n_layer": 2}."""
    student: str | None = None
    """Instead of --config: folder or hub id of a causal language model to go on from."""
    teacher: str | None = None
    """A teacher with the same vocabulary, which is asked about every token (vanilla KD)."""
    kd_weight: float = 0.5
    """With --teacher: k in (1 - k) LM + k KD."""
    tokenizer: str | None = None
    """Of a text file: folder or hub id; the teacher's or the student's if not given, and without those one is learned
    from the corpus."""
    vocabulary: int = 8192
    """Tokens of a tokenizer that is learned from the corpus, at most."""
    max_length: int = 257
    """Of a text file: tokens of a chunk, one more than the model reads at once."""
    part: str = "0:1"
    """Use this part of the corpus alone, as two shares: 0:0.05 for a reference model."""
    dev_data: str | None = None
    """Text, cut as the corpus is, or corpus to report on; otherwise a part of the corpus is cut from its end."""
    dev_share: float = 0.05
    """The share of the corpus that is cut, without --dev-data."""
    steps: int | None = None
    """Optimizer steps; one pass over the corpus if neither this, --epochs nor --flops is given."""
    flops: float | None = None
    """Instead of --steps: as many as cost so many FLOPs, the student's and the teacher's."""
    batch_size: int = 16
    """Chunks in a batch."""
    accumulate: int = 1
    """Batches whose gradients make one optimizer step."""
    lr: float = 6e-4
    """Peak learning rate."""
    seed: int = 0
    """Seed of the initialisation, data order and dropout."""
    device: str = "cpu"
    """Where student and teacher are: cpu, cuda, cuda:1."""
    precision: Precision = "fp32"
    """What the models compute in; weights, optimizer and losses are in float32 either way."""
    compile: bool = False
    """Compile the student's passes: the first steps take some 20 seconds more, the others less; meant for GPUs."""

    def run(self) -> None:
        """Trains, reports the held-out loss, and saves the model under OUTPUT/student."""
        from contextlib import ExitStack

        from ackd import models
        from ackd.building.checks import check_device
        from ackd.cli.score import kept_in, ready
        from ackd.training.loop import distill

        folder = self.run_folder((self.corpus, self.config, self.student, self.teacher, self.tokenizer, self.dev_data))
        if self.finished(folder, "pretrain"):
            return
        self._check()
        device = check_device(self.device)
        tokenizer, whose = self._tokenizer(folder)
        teacher = self._teacher(tokenizer, device)
        make = self._student(tokenizer, teacher)
        with ExitStack() as stack:
            corpus = stack.enter_context(ready(folder, self.corpus, tokenizer, self.max_length, whose))
            dev: Corpus | None = None
            if self.dev_data is not None:
                dev = stack.enter_context(
                    ready(folder, self.dev_data, tokenizer, corpus.header.max_length, whose, "dev")
                )
            training, chosen, figures = self._training(corpus, dev, teacher, make, device)
            folder.begin("pretrain", asdict(self))
            for one in (corpus, dev):
                if one is not None:
                    kept_in(folder, one)
        journal = self.journal(folder.path / "checkpoint")
        training.replay(journal)
        curve = ["step,loss,lm_loss,kd_loss,grad_norm,accuracy"]
        started = time.perf_counter()
        with progress(training.steps, "pretrain") as bar:

            def note(done: int, report: Any) -> None:
                kd = report.losses.get("tokens", math.nan)
                numbers = (report.loss, report.labels, kd, report.grad_norm, report.accuracy)
                curve.append(",".join([str(done), *(f"{number:.6g}" for number in numbers)]))
                move(bar, done)

            distill(training, chosen, seed=self.seed, interval=INTERVAL, on_phase=note)
        (name, split), *_ = training.task.dev.items()
        standing = training.measure(split, name)
        folder.write_json("ledger.json", training.ledger.as_dict())
        result = {
            **self._result(training, teacher, standing),
            **figures,
            "corpus": corpus.header.fingerprint,
            "seed": self.seed,
            "seconds": round(time.perf_counter() - started, 3),
        }
        models.save_model(folder.path / "student", training.student.model, tokenizer)
        folder.write_text("curve.csv", "\n".join(curve) + "\n")
        folder.write_json("result.json", result)
        journal.finish()
        beside = f" (teacher {result['teacher_loss']:.4f})" if teacher is not None else ""
        print(
            f"held-out loss {result['dev_loss']:.4f} a token{beside}, perplexity {result['dev_perplexity']:.2f}, after "
            f"{training.steps} steps, {figures['tokens']} tokens, {figures['flops']:.3g} FLOPs"
        )
        print(f"student: {folder.path / 'student'}")

    def _result(self, training: Distillation, teacher: ModelTeacher | None, standing: Standing) -> dict[str, Any]:
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
            "kd_weight": self.kd_weight if teacher is not None else None,
        }

    def _check(self) -> None:
        from ackd.errors import InputError
        from ackd.training.recipe import Recipe, check_length

        if (self.config is None) == (self.student is None):
            raise InputError("say what the student is: --config with a JSON file, or --student, and not both")
        check_length(self.steps, self.epochs)
        said = [name for name in ("steps", "epochs", "flops") if getattr(self, name) is not None]
        if len(said) > 1:
            raise InputError(f"--{said[0]} and --{said[1]} both say how long to train: name one of them")
        if self.flops is not None and not 0 < self.flops < math.inf:
            raise InputError(f"the FLOPs must be above 0, got {self.flops}")
        Recipe.of(part(self, RecipeConfig))
        for name, value in (("batch size", self.batch_size), ("batches of a step", self.accumulate)):
            if value < 1:
                raise InputError(f"the {name} must be above 0, got {value}")
        if self.teacher is not None and not 0 <= self.kd_weight <= 1:
            raise InputError(f"the weight of the teacher is {self.kd_weight}: give 0 to 1")

    def _tokenizer(self, folder: RunFolder) -> tuple[Tokenizer, str]:
        """Whose tokens the student reads, and what to call it."""
        from pathlib import Path

        from ackd import corpora, models

        named = self.tokenizer or self.teacher or self.student
        if named is not None:
            return models.load_tokenizer(named), named
        if folder.resumed and corpora.find_corpus(folder.path) is not None:
            return corpora.open_corpus(folder.path).tokenizer(), self.corpus
        if Path(self.corpus).is_file():
            return models.train_tokenizer(
                (one.text for one in corpora.documents(self.corpus)), self.vocabulary
            ), self.corpus
        return corpora.open_corpus(self.corpus).tokenizer(), self.corpus

    def _teacher(self, tokenizer: Tokenizer, device: torch.device) -> ModelTeacher | None:
        from ackd import models
        from ackd.errors import InputError
        from ackd.teachers import ModelTeacher

        if self.teacher is None:
            return None
        if not models.same_vocabulary(models.load_tokenizer(self.teacher), tokenizer):
            raise InputError(
                f"the teacher {self.teacher} has another vocabulary than {self.tokenizer}: its distributions over "
                "tokens cannot be learned from; refine the corpus with it instead (ackd refine-data --retokenise)"
            )
        model = models.load_model(self.teacher, device=device, language=True)
        models.check_causal(model, f"the teacher {self.teacher}")
        return ModelTeacher(model, precision=self.precision)

    def _student(self, tokenizer: Tokenizer, teacher: ModelTeacher | None) -> StudentFactory:
        import torch

        from ackd import models
        from ackd.errors import InputError, reason

        if self.config is not None:
            size = teacher.shape.vocabulary if teacher is not None else None
            make = models.from_config(models.language_config(self.config, tokenizer, size), language=True)
        else:
            assert self.student is not None
            if not models.same_vocabulary(models.load_tokenizer(self.student), tokenizer):
                raise InputError(
                    f"the student {self.student} has another vocabulary than {self.tokenizer or self.teacher}"
                )
            make = models.from_checkpoint(self.student)
        try:
            with torch.random.fork_rng():
                one = make()
                size = models.shape_of(one).vocabulary
                models.check_causal(one, f"the student {self.config or self.student}")
        except (ValueError, TypeError, AttributeError, RuntimeError, AssertionError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.config or self.student} makes no causal language model ({reason(error)})"
            ) from error
        if teacher is not None and size != teacher.shape.vocabulary:
            raise InputError(
                f"the student answers with {size} tokens and the teacher {self.teacher} with "
                f"{teacher.shape.vocabulary}: they need the same vocabulary"
            )
        if size < models.vocabulary_size(tokenizer):
            raise InputError(f"the student has a vocabulary of {size}, less than its tokenizer")
        return make

    def _training(
        self,
        corpus: Corpus,
        dev: Corpus | None,
        teacher: ModelTeacher | None,
        make: StudentFactory,
        device: torch.device,
    ) -> tuple[Distillation, Selection, dict[str, Any]]:
        """The training, what it transfers, and what it will have taken in the end."""
        from ackd import corpora, models
        from ackd.knowledge import Tokens
        from ackd.training.budget import afford
        from ackd.training.distillation import Distillation
        from ackd.training.recipe import Recipe, length
        from ackd.types import Selection

        blocks = corpora.part(len(corpus), self.part)
        task, (first, last) = corpora.language_task(corpus, blocks, dev, self.dev_share)
        passes = self.epochs if self.epochs is not None or self.steps is not None else 1.0
        steps = length(self.steps, passes, examples=len(task.train), batch=self.batch_size * self.accumulate)
        training = Distillation(
            task,
            (teacher,) if teacher is not None else (),
            make,
            (lambda: [Tokens()]) if teacher is not None else tuple,
            steps=steps,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            lr=self.lr,
            recipe=Recipe.of(part(self, RecipeConfig)),
            scale_steps=0,
            device=device,
            precision=self.precision,
            compiled=self.compile,
        )
        longest = max(int(split.lengths.max()) for split in (task.train, *task.dev.values())) - 1
        models.check_length(training.student.model, longest, f"the student {self.config or self.student}")
        chosen = Selection()
        if teacher is not None:
            models.check_length(teacher.model, longest, f"the teacher {self.teacher}")
            chosen = Selection({"tokens": self.kd_weight}, labels=1 - self.kd_weight)
        training.steps, flops, tokens = afford(training, chosen, self.flops, self.seed)
        passes = training.steps * self.batch_size * self.accumulate / len(task.train)
        figures = {"steps": training.steps, "tokens": tokens, "passes": round(passes, 4), "flops": flops}
        return training, chosen, {**figures, "first": first, "last": last}
