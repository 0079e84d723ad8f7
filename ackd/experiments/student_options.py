"""What can be set of commands that train classifiers: a teacher, the best of a grid, peers, a federation."""

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

EPOCHS = 3.0  # of fine-tuning, where nobody says how long


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(DataConfig, LengthConfig, RecipeConfig, OutputConfig):
    """A model that learns a task from its labels."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    model: Common[str | None] = None
    """Folder or hub id to start from; a generated task can do without, and starts a small model from scratch."""
    steps: Common[int | None] = None
    """Optimizer steps; 3 epochs if neither this nor --epochs is given."""
    lr: Common[float] = 5e-5
    """Peak learning rate."""
    batch_size: Common[int] = 32
    """Examples in a step."""
    seed: Common[int] = 0
    """Seed of everything random about the training."""
    device: Common[str] = "auto"
    """Where the model is: cpu, cuda, cuda:1, or auto for a GPU if there is one."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "epochs", EPOCHS)


@dataclass(frozen=True, kw_only=True)
class TuneConfig(DataConfig, ModelConfig, CacheConfig, TrainingConfig, RunConfig):
    """Plain distillation at every temperature and weight of a grid."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: Common[tuple[str, ...]]
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach by their average."""
    temperature: Common[tuple[float, ...]] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Temperatures to try."""
    kd_weight: Common[tuple[float, ...]] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Weights of the teacher to try, from 0 to 1; the labels have the rest."""
    seeds: Common[int] = 1
    """Students for each pair; every pair gets the same ones."""
    first_seed: int = 0
    """The first of the seeds."""


@dataclass(frozen=True, kw_only=True)
class MutualConfig(DataConfig, TrainingConfig, RunConfig):
    """Students that teach each other."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    students: Common[tuple[str, ...]]
    """Two or more: folder or hub id to start from, or a JSON config to draw weights for; the same one may be named
    again where its weights are drawn. All share one tokenizer."""
    peer_dropout: bool = True
    """Students answer each other with their dropout on, as the paper's do."""
    seed: Common[int] = 0
    """Seed of data order and dropout; each student draws its weights from a seed of its own, counted from here."""
    device: Common[str] = "auto"
    """Where the students are: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
    precision: Precision = "fp32"
    """What the models compute in; weights, optimizer and losses are in float32 either way."""


@dataclass(frozen=True, kw_only=True)
class FederateConfig(DataConfig, ModelConfig, RecipeConfig, TrackingConfig, RunConfig):
    """A simulated federation, and what it starts from."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: Common[str | None] = None
    """Where --student-layers and the tokenizer come from: folder, run or hub id. It teaches nobody."""
    clients: Common[int] = 8
    """Clients that share the training data, less what the server has."""
    split: Common[str] = "dirichlet:0.1"
    """How they share it: iid, shards:S (S shards of the examples sorted by label for each), or dirichlet:A (class
    proportions drawn from a Dirichlet distribution, one class for small A and all for large). Drawn by --data-seed."""
    public_examples: int = 256
    """Training examples that the server has, drawn by --data-seed: what it distils on."""
    rounds: Common[int] = 10
    """Rounds of FedAvg from each start."""
    local_steps: int = 20
    """Optimizer steps of a client in a round."""
    own_steps: int = 100
    """Optimizer steps of the model that each client trains by itself beforehand."""
    starts: tuple[str, ...] = ("initial", "distilled")
    """From what FedAvg starts, one after the other: initial (the starting model), labels (trained on the server's
    examples and their labels alone), distilled (from the clients' own models, on the server's examples)."""
    distil_steps: int = 100
    """Optimizer steps of the server for a start."""
    temperature: float = 1.0
    """Of the distillation into one model."""
    kd_weight: float = 0.5
    """Weight of the clients' models in it, from 0 to 1; the labels of the server's examples have the rest."""
    target: float | None = None
    """Score in percent; how many rounds it takes to reach it is reported."""
    batch_size: Common[int] = 32
    """Examples in a batch."""
    lr: Common[float] = 5e-5
    """Peak learning rate of every training; it rises and falls in every round."""
    seed: Common[int] = 0
    """Seed of the starting model and of all trainings; every start gets the same ones."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TextConfig):
    """A model that is asked about a test split."""

    model: Common[str]
    """The model: folder, a run that holds one, or a hub id."""
    task: Common[str]
    """A GLUE task, or ax, which a model of mnli answers; or any name for data of your own, and for its file."""
    split: str | None = None
    """Which split, where --data is a data set of your own; test, or the only one, if not given."""
    output: Common[str]
    """Folder for the files, such as SST-2.tsv; it may hold those of other tasks."""
    overwrite: bool = False
    """Replace files of this task in --output."""
    device: Common[str] = "auto"
    """Where the model is: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
    precision: Precision = "fp32"
    """What it computes in."""
