"""The options of the commands finetune, tune, mutual, federate and predict."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.config import (
    CacheConfig,
    Common,
    DataConfig,
    LengthConfig,
    ModelConfig,
    Precision,
    RecipeConfig,
    TextConfig,
    TrainingConfig,
)
from ackd.experiments.options import OutputConfig, RunConfig, TrackingConfig

EPOCHS = 3.0  # default length of fine-tuning


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(DataConfig, LengthConfig, RecipeConfig, OutputConfig):
    """A model that learns a task from its labels."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    model: Common[str | None] = None
    """Folder or hub id to start from; if not given, a generated task trains a small model from scratch."""
    steps: Common[int | None] = None
    """Optimizer steps; 3 epochs if neither --steps nor --epochs is given."""
    lr: Common[float] = 5e-5
    """Peak learning rate."""
    batch_size: Common[int] = 32
    """Examples in a step."""
    seed: Common[int] = 0
    """Seed of everything random about the training."""
    device: Common[str] = "auto"
    """Device of the model: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "epochs", EPOCHS)


@dataclass(frozen=True, kw_only=True)
class TuneConfig(DataConfig, ModelConfig, CacheConfig, TrainingConfig, RunConfig):
    """Plain distillation at every temperature and weight of a grid."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: Common[tuple[str, ...]]
    """The teacher: folder of a fine-tuned model, a run that contains one, or a hub id. The probabilities of several
    teachers are averaged."""
    temperature: Common[tuple[float, ...]] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Temperatures to try."""
    kd_weight: Common[tuple[float, ...]] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Weights of the teacher to try, from 0 to 1; the labels have the rest."""
    seeds: Common[int] = 1
    """Students for each pair; all pairs start from the same students."""
    first_seed: int = 0
    """The first seed."""


@dataclass(frozen=True, kw_only=True)
class MutualConfig(DataConfig, TrainingConfig, RunConfig):
    """Students that teach each other."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    students: Common[tuple[str, ...]]
    """Two or more students: folder or hub id to start from, or a JSON config for random weights. The same config may
    be named several times. All students share one tokenizer."""
    peer_dropout: bool = True
    """Compute the predictions for the other students with dropout on, as in the paper."""
    seed: Common[int] = 0
    """Seed of data order and dropout; the students' random weights have their own seeds, counted from this one."""
    device: Common[str] = "auto"
    """Device of the students: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""
    precision: Precision = "fp32"
    """Precision of the models' computations; weights, optimizer and losses are always float32."""


@dataclass(frozen=True, kw_only=True)
class FederateConfig(DataConfig, ModelConfig, RecipeConfig, TrackingConfig, RunConfig):
    """A simulated federation and its starts."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: Common[str | None] = None
    """Source of --student-layers and of the tokenizer: folder, run or hub id. It is not used as a teacher."""
    clients: Common[int] = 8
    """Number of clients; they share the training data without the server's examples."""
    split: Common[str] = "dirichlet:0.1"
    """How the clients share the data: iid, shards:S (S shards of the examples sorted by label for each), or dirichlet:A
    (class proportions from a Dirichlet distribution: one class for small A, all for large). Drawn by --data-seed."""
    public_examples: int = 256
    """Number of the server's training examples for distillation, drawn by --data-seed."""
    rounds: Common[int] = 10
    """Rounds of FedAvg from each start."""
    local_steps: int = 20
    """Optimizer steps of a client in a round."""
    own_steps: int = 100
    """Optimizer steps of each client's own model, before the rounds."""
    starts: tuple[str, ...] = ("initial", "distilled")
    """Starting points of FedAvg, one after the other: initial (the untrained model), labels (trained on the labels of
    the server's examples alone), distilled (from the clients' own models, on the server's examples)."""
    distil_steps: int = 100
    """Optimizer steps of the server for a start."""
    temperature: float = 1.0
    """Temperature of the distillation into one model."""
    kd_weight: float = 0.5
    """Weight of the clients' models in this distillation, from 0 to 1; the labels of the server's examples have the
    rest."""
    target: float | None = None
    """Score in percent; the number of rounds until this score is reported."""
    batch_size: Common[int] = 32
    """Examples in a batch."""
    lr: Common[float] = 5e-5
    """Peak learning rate of every training; it rises and falls in every round."""
    seed: Common[int] = 0
    """Seed of the starting model and of all trainings; all starts use the same seeds."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TextConfig):
    """A model and the texts to predict."""

    model: Common[str]
    """The model: folder, a run that contains one, or a hub id."""
    task: Common[str]
    """A GLUE task, or ax for a model of mnli; or any name for your own data, which also names the file."""
    split: str | None = None
    """Split of your own data set; if not given: test, or the only split."""
    output: Common[str]
    """Folder for the files, such as SST-2.tsv; it may contain files of other tasks."""
    overwrite: bool = False
    """Replace files of this task in --output."""
    device: Common[str] = "auto"
    """Device of the model: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""
    precision: Precision = "fp32"
    """Precision of the model's computations."""
