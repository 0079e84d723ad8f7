"""What can be set of a distillation, in groups that commands and experiments combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, TypeVar

Precision: TypeAlias = Literal["fp32", "bf16"]
Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
Init: TypeAlias = Literal["even", "first"]
Kind = TypeVar("Kind")
COMMON = "common"
Common: TypeAlias = Annotated[Kind, COMMON]  # what --help shows; the rest is behind --help-all
STEPS = 300  # of a student's training, where nobody says how long it is


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Texts, and where they come from."""

    data: Common[str | None] = None
    """GLUE as a folder in the hub's layout, from the Hugging Face hub if not given; or data of your own: a CSV, TSV,
    JSON or Parquet file, a folder that save_to_disk wrote, or USER/NAME or USER/NAME:CONFIG on the hub."""
    text_columns: Common[tuple[str, ...]] = ()
    """One or two text columns of data of your own; text, sentence, or its only ones of text, if not given."""
    max_length: int = 128
    """Tokens of an example; longer ones are cut."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(TextConfig):
    """Examples with labels, and what is held out of them."""

    label_column: Common[str | None] = None
    """The label column of data of your own; label or labels, if not given."""
    dev_data: str | None = None
    """File to report on, of data of your own; if not given, its validation split, or one like it, or a fifth of it."""
    max_examples: Common[int | None] = None
    """Learn from at most so many training examples, drawn by --data-seed from what the reward split leaves."""
    reward_examples: int | None = None
    """Training examples set aside for the reward, which no model of the run says it has seen: 256, or an eighth of them
    where that is less, if not given; half of them at most. 0 sets none aside, where nothing reads them."""
    reward_from: str = "train"
    """Where rewards are measured: train, or dev:PART, as dev:0.5, for a part of dev; reports then read the rest."""
    wrong_labels: float = 0.0
    """Turn this share of the labels of train and reward split into another class, to see what noise does."""
    data_seed: int = 0
    """Seed of the reward split and of --max-examples: the same for runs that are to be compared."""


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where the models compute, and in what."""

    device: Common[str] = "auto"
    """Where student and teacher are: cpu, cuda, cuda:1, or auto for a GPU if there is one; of several workers, if there
    is one for each. The agent stays on the CPU."""
    precision: Precision = "fp32"
    """What the models compute in; weights, optimizer and losses are in float32 either way."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(DeviceConfig):
    """The student's model."""

    student_layers: Common[int | None] = None
    """The student starts as so many layers of --student, or of the (first) teacher."""
    student: Common[str | None] = None
    """Folder or hub id to start from, or a JSON config to draw weights for."""
    student_init: Init = "even"
    """Which of the layers with --student-layers: those at even distances, or the first ones."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeConfig:
    """What can pass from the teacher to the student."""

    knowledge: Common[tuple[str, ...]] = ()
    """Knowledge types that can be selected: logits, hidden and attention if none is named; docs/knowledge.md lists
    all. Of several teachers, logits@2 is the second's, and logits stands for everyone's."""
    layer_map: str | None = None
    """Which teacher layer each student layer learns from: uniform, last, skip, or pairs such as 0:1,1:3,2:5."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(KnowledgeConfig):
    """What can pass from the teacher to the student, and how it is measured."""

    temperature: float = 4.0
    """Temperature of the logits; a preset has its own."""
    gradient_cosines: bool = False
    """Compare the gradients of types and labels at the first step of each phase."""


@dataclass(frozen=True, kw_only=True)
class PresetConfig:
    """A published method, and what each of several teachers counts."""

    teacher_weights: tuple[float, ...] = ()
    """What each teacher's losses count; 1 each if not given."""
    preset: Common[str | None] = None
    """A published method with its losses, weights and stages, or several joined by commas; `ackd presets` lists
    them."""
    keep: float | None = None
    """Of a preset that picks examples: the share that it keeps of a batch, or of the training data (label-revision)."""
    score: str | None = None
    """Of a preset that picks examples: entropy, margin, confidence, loss, the same with -r for the reverse, or
    random."""
    options: tuple[str, ...] = ()
    """Further options of the preset as NAME=VALUE, such as alpha=0.7; `ackd presets NAME` lists them."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where teachers' answers are kept."""

    cache: Common[str | None] = None
    """Folder that keeps the teachers' answers, shared by all runs that ask the same; `ackd cache` fills it ahead."""
    cache_budget: str = "4GB"
    """What one teacher's answers may take there; what does not fit is asked live."""
    cache_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Numbers in the cache; the answers are rounded to them."""


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
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


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """How long a model learns."""

    steps: Common[int | None] = None
    """Optimizer steps of one training; 300 if neither this nor --epochs is given."""
    epochs: Common[float | None] = None
    """Instead of --steps: passes over the training data."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(LengthConfig, RecipeConfig):
    """How a student learns."""

    batch_size: Common[int] = 32
    """Examples in a batch."""
    accumulate: int = 1
    """Batches whose gradients make one optimizer step."""
    lr: Common[float] = 5e-5
    """Peak learning rate of the student."""
    compile: bool = False
    """Compile the student's passes: the first steps take some 20 seconds more, the others less; meant for GPUs."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "steps", STEPS)  # so that a run's config.json says it


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """What is decided of a student's training, and what a decision earns."""

    decisions: int | None = 4
    """Decisions in a student's training; None: one for each interval."""
    decision_interval: int = 20
    """Optimizer steps between two rows of decisions.csv and two points of a curve; a decision holds for one or more."""
    reward: Common[str] = "gap"
    """What a decision earns: gap (which is either-gap), loss-gap, score-gap, probability-gap, kl-gap, margin-gap,
    agreement-gap, neg-loss, final, gap+explore-soft, gap+explore-hard; docs/agents.md tells them apart."""
    cost_weight: float = 0.0
    """What transferring everything throughout costs, in shares of the gap to the teacher."""
    flops_budget: float | None = None
    """What a student's training may spend, as a share of the FLOPs of transferring everything throughout; where the
    rest is needed for the labels alone, these go on. No limit if not given."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig(ModelConfig, TransferConfig, CacheConfig, TrainingConfig):
    """The student, what it can be taught, and how it learns."""


@dataclass(frozen=True, kw_only=True)
class SettingConfig(DataConfig, StudentConfig, PresetConfig):
    """Data, models, and what passes between them: what makes a distillation."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(SettingConfig, EpisodeConfig):
    """All that can be set of a distillation, each as on the command line.

    Example:
        DistillationConfig(student_layers=3, epochs=3, lr=5e-5)
    """
