"""Options that several commands share."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ackd.runs.stopping import whole
from ackd.training.recipe import STEPS, Recipe, Schedule, length

Precision = Literal["fp32", "bf16"]
EVERY = 60.0  # seconds between two lines of progress
logger = logging.getLogger("ackd")

if TYPE_CHECKING:
    from tqdm import tqdm

    from ackd.runs.folder import RunFolder
    from ackd.training.journal import Journal


@dataclass(kw_only=True)
class TextOptions:
    """Where texts come from."""

    data: str | None = None
    """GLUE as a folder in the hub's layout, from the Hugging Face hub if not given; or data of your own: a CSV, TSV,
    JSON or Parquet file, a folder that save_to_disk wrote, or USER/NAME or USER/NAME:CONFIG on the hub."""
    text_columns: tuple[str, ...] = ()
    """One or two text columns of data of your own."""
    max_length: int = 128
    """Tokens of an example; longer ones are cut."""


@dataclass(kw_only=True)
class DataOptions(TextOptions):
    """Where the examples come from."""

    label_column: str | None = None
    """The label column of data of your own."""
    dev_data: str | None = None
    """File to report on, of data of your own; if not given, its validation split, or one like it, or a fifth of it."""
    max_examples: int | None = None
    """Learn from at most so many training examples, drawn by --data-seed from what the reward split leaves."""
    reward_examples: int = 256
    """Training examples set aside for the reward, half of them at most, which no model of the run says it has seen."""
    reward_from: str = "train"
    """Where rewards are measured: train, or dev:PART, as dev:0.5, for a part of dev; reports then read the rest."""
    wrong_labels: float = 0.0
    """Turn this share of the labels of train and reward split into another class, to see what noise does."""
    data_seed: int = 0
    """Seed of the reward split and of --max-examples: the same for runs that are to be compared."""

    def data_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them."""
        names = ("data", "text_columns", "label_column", "dev_data", "max_examples", "reward_examples", "reward_from")
        return {name: getattr(self, name) for name in (*names, "wrong_labels", "max_length", "data_seed")}


@dataclass(kw_only=True)
class OutputOptions:
    """Where a run goes."""

    output: str
    """Folder for the run; it must not hold one yet."""
    overwrite: bool = False
    """Replace the run in --output."""


@dataclass(kw_only=True)
class ResumableOptions(OutputOptions):
    """A run that can be taken up again."""

    resume: bool = False
    """Go on with the run in --output, where it was killed; begin it if there is none."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Raises:
            InputError: if it cannot be used.
        """
        from ackd.distributed.rendezvous import restarted
        from ackd.runs.folder import RunFolder

        again = restarted()  # after a loss, and so in the middle of the run
        return RunFolder(
            self.output, overwrite=self.overwrite and not again, inputs=inputs, resume=self.resume or again
        )

    def finished(self, folder: RunFolder, command: str, *, growing: Collection[str] = (), **changed: Any) -> bool:
        """Whether there is nothing left to do in the run's folder, which is said then.

        Args:
            folder: the run's.
            command: as its `begin` is told.
            growing: likewise.
            **changed: settings that `begin` is told otherwise than the options have them.

        Raises:
            InputError: if the folder holds another run, or its result is damaged.
        """
        over = folder.finished(command, asdict(self) | changed, growing=growing)
        if over:
            print(f"the run in {self.output} is finished: nothing is left to resume")
        return over


@dataclass(kw_only=True)
class RunOptions(ResumableOptions):
    """A training, which leaves checkpoints."""

    checkpoint_seconds: float = 60.0
    """Training between two checkpoints: what is lost at most, when the run is killed."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Raises:
            InputError: if it cannot be used, or the time between checkpoints is below 0.
        """
        from ackd.errors import InputError

        if not self.checkpoint_seconds >= 0:
            raise InputError(f"--checkpoint-seconds is {self.checkpoint_seconds}: give 0 or more")
        return super().run_folder(inputs)

    def journal(self, folder: Path) -> Journal:
        """The journal in a folder, from which a run goes on."""
        from ackd.training.journal import Journal

        return Journal(folder, seconds=self.checkpoint_seconds)


@dataclass(kw_only=True)
class ModelOptions:
    """The student's model, and where the models are."""

    student_layers: int | None = None
    """The student starts as so many layers of --student, or of the (first) teacher."""
    student: str | None = None
    """Folder or hub id to start from, or a JSON config to draw weights for."""
    student_init: Literal["even", "first"] = "even"
    """Which of the layers with --student-layers: those at even distances, or the first ones."""
    device: str = "cpu"
    """Where student and teacher are: cpu, cuda, cuda:1. The agent stays on the CPU."""
    precision: Precision = "fp32"
    """What the models compute in; weights, optimizer and losses are in float32 either way."""

    def model_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them."""
        names = ("student_layers", "student", "student_init", "device", "precision")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class PairOptions(ModelOptions):
    """What can pass from the teacher to the student."""

    knowledge: tuple[str, ...] = ()
    """Knowledge types that can be selected: logits, hidden and attention if none is named; docs/knowledge.md lists
    all. Of several teachers, logits@2 is the second's, and logits stands for everyone's."""
    layer_map: str | None = None
    """Which teacher layer each student layer learns from: uniform, last, skip, or pairs such as 0:1,1:3,2:5."""

    def pair_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them."""
        return {"types": self.knowledge, "layer_map": self.layer_map, **self.model_settings()}


@dataclass(kw_only=True)
class CacheOptions:
    """Where teachers' answers are kept."""

    cache: str | None = None
    """Folder that keeps the teachers' answers, shared by all runs that ask the same; `ackd cache` fills it ahead."""
    cache_budget: str = "4GB"
    """What one teacher's answers may take there; what does not fit is asked live."""
    cache_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Numbers in the cache; the answers are rounded to them."""

    def cache_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them."""
        return {name: getattr(self, name) for name in ("cache", "cache_budget", "cache_dtype")}


@dataclass(kw_only=True)
class RecipeOptions:
    """The optimizer, and the course of the learning rate; what is not given is the preset's own, or else ours."""

    warmup: float | None = None
    """Share of the steps in which the learning rate rises (0.06, or the preset's)."""
    schedule: Schedule | None = None
    """The learning rate after that (linear, or the preset's): a linear fall to 0, a cosine to a tenth of the peak, or
    constant."""
    weight_decay: float | None = None
    """Of the matrices; biases and norms have none (0.01, or the preset's)."""
    adam_betas: tuple[float, float] | None = None
    """Adam's two betas (0.9 0.999, or the preset's)."""
    gradient_clipping: float | None = None
    """Largest norm of a step's gradient; 0: none (1, or the preset's)."""

    def recipe_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(Recipe)}

    def recipe(self) -> Recipe:
        """As a training without a preset takes it."""
        return Recipe.of(self.recipe_settings())


@dataclass(kw_only=True)
class LengthOptions:
    """How long a model learns."""

    steps: int | None = None
    """Optimizer steps of one training; 300 if neither this nor --epochs is given."""
    epochs: float | None = None
    """Instead of --steps: passes over the training data."""

    def length(self, examples: int, batch: int) -> int:
        """Optimizer steps, for so many training examples, and so many of them a step.

        Raises:
            InputError: if both options are given, or one is not above 0.
        """
        return length(self.steps, self.epochs, examples=examples, batch=batch)


@dataclass(kw_only=True)
class LearningOptions(LengthOptions, RecipeOptions):
    """How a student learns."""

    batch_size: int = 32
    """Examples in a batch."""
    accumulate: int = 1
    """Batches whose gradients make one optimizer step."""
    lr: float = 5e-5
    """Peak learning rate of the student."""
    compile: bool = False
    """Compile the student's passes: the first steps take some 20 seconds more, the others less; meant for GPUs."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            self.steps = STEPS  # so that a run's config.json says it

    def learning_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them."""
        own = {name: getattr(self, name) for name in ("steps", "epochs", "batch_size", "accumulate", "lr")}
        return {**own, **self.recipe_settings(), "compiled": self.compile}


@dataclass(kw_only=True)
class StudentOptions(PairOptions, CacheOptions, LearningOptions):
    """The student, what it can be taught, and how it learns."""

    temperature: float = 4.0
    """Temperature of the logits; a preset has its own."""
    decisions: int = 4
    """Decisions in a student's training."""
    decision_interval: int = 20
    """Optimizer steps between two rows of decisions.csv and two points of a curve; a decision holds for one or more."""
    reward: str = "gap"
    """What a decision earns: gap (which is either-gap), loss-gap, score-gap, probability-gap, kl-gap, margin-gap,
    agreement-gap, neg-loss, final, gap+explore-soft, gap+explore-hard; docs/agents.md tells them apart."""
    cost_weight: float = 0.0
    """What transferring everything throughout costs, in shares of the gap to the teacher."""
    gradient_cosines: bool = False
    """Compare the gradients of types and labels at the first step of each phase."""
    flops_budget: float | None = None
    """What a student's training may spend, as a share of the FLOPs of transferring everything throughout; where the
    rest is needed for the labels alone, these go on. No limit if not given."""

    def student_settings(self) -> dict[str, Any]:
        """As `ACKD/Distill-v0` takes them."""
        own = {
            name: getattr(self, name)
            for name in ("temperature", "decisions", "decision_interval", "reward", "cost_weight", "flops_budget")
        }
        own["cosines"] = self.gradient_cosines
        return {**self.pair_settings(), **self.cache_settings(), **self.learning_settings(), **own}


@dataclass(kw_only=True)
class MethodOptions:
    """A published method."""

    preset: str | None = None
    """A published method with its losses, weights and stages, or several joined by commas; `ackd presets` lists
    them."""
    keep: float | None = None
    """Of a preset that picks examples: the share that it keeps of a batch, or of the training data (label-revision)."""
    score: str | None = None
    """Of a preset that picks examples: entropy, margin, confidence, loss, the same with -r for the reverse, or
    random."""
    options: tuple[str, ...] = ()
    """Further options of the preset as NAME=VALUE, such as alpha=0.7; `ackd presets NAME` lists them."""

    def method_settings(self) -> dict[str, Any]:
        """As `ackd.prepare` takes them.

        Raises:
            InputError: if an option is not written as NAME=VALUE, or is named twice.
        """
        from ackd.errors import InputError
        from ackd.presets import parse

        given = {name: value for name, value in (("keep", self.keep), ("score", self.score)) if value is not None}
        for name, value in pairs(self.options).items():
            if name in given:
                raise InputError(f"the option {name!r} is given twice: give it once")
            given[name] = value
        return {"preset": self.preset, "options": parse(self.preset, given)}


def pairs(texts: Iterable[str]) -> dict[str, Any]:
    """What was written as NAME=VALUE.

    Raises:
        InputError: if one is not, or a name is given twice.
    """
    from ackd.errors import InputError

    given: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise InputError(f"the option {text!r} cannot be read: write it as NAME=VALUE")
        if name in given:
            raise InputError(f"the option {name!r} is given twice: give it once")
        given[name] = value
    return given


def move(bar: tqdm[Any], done: int) -> None:
    """Moves a bar to `done` steps."""
    bar.update(done - bar.n)


@contextmanager
def progress(steps: int, what: str, unit: str = "step") -> Iterator[tqdm[Any]]:
    """A bar over optimizer steps with rate and time left; a plain line now and then where it goes to no terminal."""
    from tqdm import tqdm

    look: dict[str, Any] = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        said = f"{{desc}}: {{n_fmt}} of {{total_fmt}} {unit}s, {{remaining}} left"
        look = {
            "file": _Lines(),
            "bar_format": said,
            "delay": EVERY,
            "mininterval": EVERY,
            "miniters": 1,
            "leave": False,
        }
    with whole():  # one that is half made complains when it is thrown away
        bar = tqdm(total=steps, desc=what, unit=unit, **look)
    with bar:
        yield bar


class _Lines(io.StringIO):
    """Where a bar goes that is to be lines: the log."""

    def write(self, text: str) -> int:
        """Notes it, without what moves a cursor."""
        if line := text.strip():
            logger.info("%s", line)
        return len(text)
