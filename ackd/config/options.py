"""The options of a distillation, in groups that commands and experiments combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, TypeVar

Precision: TypeAlias = Literal["fp32", "bf16"]
Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
Init: TypeAlias = Literal["even", "first"]
CacheReads: TypeAlias = Literal["auto", "all", "none"]
Kind = TypeVar("Kind")
COMMON = "common"
Common: TypeAlias = Annotated[Kind, COMMON]  # shown by --help; --help-all shows the rest too
STEPS = 300  # default length of a student's training


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Texts and their sources."""

    data: Common[str | None] = None
    """A GLUE folder in the hub's layout (the Hugging Face hub if not given), or data of your own: a CSV, TSV, JSON or
    Parquet file, a text file with a text in each line, a folder written by save_to_disk, or USER/NAME or
    USER/NAME:CONFIG on the hub. Of the task language: a text file, JSON lines or a corpus."""
    text_columns: Common[tuple[str, ...]] = ()
    """One or two text columns of your own data; if not given: text, sentence, or the only text columns."""
    max_length: int = 128
    """Most tokens of an example; longer examples are cut."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(TextConfig):
    """Labelled examples and the held-out splits."""

    label_column: Common[str | None] = None
    """The label column of your own data; label or labels if not given."""
    dev_data: str | None = None
    """Dev file of your own data; if not given: its validation split, a similar split, or a fifth of the data. For the
    task embeddings: scored pairs of sentences."""
    max_examples: Common[int | None] = None
    """Most training examples to learn from; --data-seed draws them after the reward split is set aside."""
    reward_examples: int | None = None
    """Training examples to set aside for the reward, none of them recorded as seen by a model of the run. If not given:
    256, or an eighth of the data where that is less. At most half of the data; 0 works if nothing reads the split."""
    reward_from: str = "train"
    """Data that rewards are measured on: train, or dev:PART for a part of dev (dev:0.5); reports then use the rest."""
    wrong_labels: float = 0.0
    """Share of the labels of train and reward split to replace by another class, to study label noise."""
    data_seed: int = 0
    """Seed of the reward split and of --max-examples; use the same seed for runs that you compare."""


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Device and precision of the models."""

    device: Common[str] = "auto"
    """Device of student and teacher: cpu, cuda, cuda:1, or auto. auto takes a GPU if there is one (with several
    workers: one for each). The agent stays on the CPU."""
    precision: Precision = "fp32"
    """Precision of the models' computations; weights, optimizer and losses are always float32."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(DeviceConfig):
    """The student's model."""

    student_layers: Common[int | None] = None
    """Number of layers that the student copies from --student, or from the (first) teacher."""
    student: Common[str | None] = None
    """Folder or hub id of the model to start from, or a JSON config for random weights."""
    student_init: Init = "even"
    """Layers that --student-layers copies: evenly spaced ones, or the first ones."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeConfig:
    """Knowledge types that can be transferred."""

    knowledge: Common[tuple[str, ...]] = ()
    """Knowledge types that can be selected; if none is named: logits, hidden and attention (for the task embeddings:
    logits-cosine, similarity, hidden and attention). docs/knowledge.md lists all types. With several
    teachers, logits@2 means the second teacher, and logits means all of them."""
    layer_map: str | None = None
    """The teacher layer for each student layer: uniform, last, skip, or pairs such as 0:1,1:3,2:5."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(KnowledgeConfig):
    """Knowledge types and how their losses are measured."""

    temperature: float = 4.0
    """Temperature of logits, reverse-kl, jsd and top-k; 1 is usual for language models. Presets have their own."""
    gradient_cosines: bool = False
    """Compare the gradients of knowledge types and labels at the first step of each phase."""


@dataclass(frozen=True, kw_only=True)
class PresetConfig:
    """A published method and the weights of the teachers."""

    teacher_weights: tuple[float, ...] = ()
    """Weight of each teacher's losses; 1 each if not given."""
    preset: Common[str | None] = None
    """A published method with its losses, weights and stages; commas join several. `ackd presets` lists them."""
    keep: float | None = None
    """Share of a batch to keep, or of the training data (label-revision), for presets that pick examples."""
    score: str | None = None
    """Score that picks the examples: entropy, margin, confidence or loss, each with -r for the reverse order, or
    random; for presets that pick examples."""
    options: tuple[str, ...] = ()
    """More options of the preset as NAME=VALUE, such as alpha=0.7; `ackd presets NAME` lists them."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The cache of teacher outputs."""

    cache: Common[str | None] = None
    """Folder that caches teacher outputs for all runs that need the same ones; `ackd cache` fills it beforehand."""
    cache_budget: str = "4GB"
    """Most disk space for one teacher's outputs; outputs that do not fit are computed again."""
    cache_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format in the cache; outputs are rounded to it."""
    cache_reads: CacheReads = "auto"
    """Outputs that the cache stores and returns: auto (those that are read faster than the teacher computes them,
    measured at the start), all that fit into the budget, or none. The others are computed, with the same rounding."""
    cache_device_memory: float = 1 / 3
    """Share of a GPU's free memory for outputs that were read from the cache; above 0, at most 1."""


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """The optimizer and the learning-rate schedule; defaults come from the preset, or else from ackd."""

    warmup: float | None = None
    """Share of the steps with a rising learning rate (0.06, or the preset's)."""
    schedule: Schedule | None = None
    """Learning rate after warmup (linear, or the preset's): a linear fall to 0, a cosine to a tenth of the peak, or
    constant."""
    weight_decay: float | None = None
    """Weight decay of the matrices; biases and norms have none (0.01, or the preset's)."""
    adam_betas: tuple[float, float] | None = None
    """Adam's two betas (0.9 0.999, or the preset's)."""
    gradient_clipping: float | None = None
    """Largest gradient norm of a step; 0 means no clipping (1, or the preset's)."""


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """How long a model learns."""

    steps: Common[int | None] = None
    """Optimizer steps of one training; 300 if neither --steps nor --epochs is given."""
    epochs: Common[float | None] = None
    """Passes over the training data, instead of --steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(LengthConfig, RecipeConfig):
    """The student's training."""

    batch_size: Common[int] = 32
    """Examples in a batch."""
    accumulate: int = 1
    """Batches per optimizer step; their gradients are added up."""
    lr: Common[float] = 5e-5
    """Peak learning rate of the student."""
    compile: bool = False
    """Compile the student's passes: the first steps take some 20 seconds more, later ones less; meant for GPUs."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "steps", STEPS)  # so that config.json of a run contains it


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """Decisions and rewards during a student's training."""

    decisions: int | None = 4
    """Decisions in a student's training; None means one per interval."""
    decision_interval: int = 20
    """Optimizer steps per interval: one row of decisions.csv, one point of a curve. A decision holds for one or more
    intervals."""
    reward: Common[str] = "gap"
    """Reward of a decision: gap (short for either-gap), loss-gap, score-gap, probability-gap, kl-gap, margin-gap,
    agreement-gap, neg-loss, final, gap+explore-soft, gap+explore-hard; docs/agents.md explains them."""
    cost_weight: float = 0.0
    """Penalty for transferring everything at every step, as a share of the gap to the teacher."""
    flops_budget: float | None = None
    """FLOPs that a student's training may spend, as a share of the FLOPs of transferring everything at every step;
    when only enough for the labels is left, training continues on labels alone. No limit if not given."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig(ModelConfig, TransferConfig, CacheConfig, TrainingConfig):
    """The student, its knowledge types and its training."""


@dataclass(frozen=True, kw_only=True)
class SettingConfig(DataConfig, StudentConfig, PresetConfig):
    """Data, models and knowledge types of a distillation."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(SettingConfig, EpisodeConfig):
    """All options of a distillation, under their names on the command line.

    Example:
        DistillationConfig(student_layers=3, epochs=3, lr=5e-5)
    """
