"""The options of the commands for texts: score, refine-data, generate and pretrain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ackd.config import Common, LengthConfig, Precision, RecipeConfig
from ackd.experiments.options import OutputConfig, ResumableConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ResumableConfig):
    """The language model and the corpus to score."""

    model: Common[str]
    """The model: folder, a run that contains one, or a hub id."""
    corpus: Common[str]
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder that ackd wrote."""
    max_length: int = 257
    """Tokens of a chunk of a text file: one more than the model reads at once."""
    batch_size: Common[int] = 8
    """Chunks in a batch."""
    shard: str | None = None
    """Score one part of the corpus, 1/4 to 4/4 for example; `refine-data` takes the folders of all parts together.
    Under torchrun, each process scores one part and writes OUTPUT/shard-1-of-4 and so on."""
    device: Common[str] = "auto"
    """Device of the model: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""
    precision: Precision = "fp32"
    """Precision of the model's computations."""


@dataclass(frozen=True, kw_only=True)
class RefineConfig(OutputConfig):
    """The part of a corpus to keep, by scores."""

    teacher_scores: Common[tuple[str, ...]]
    """Folders with the teacher's scores by `ackd score`; all of them for a corpus in shards."""
    reference_scores: Common[tuple[str, ...]]
    """Folders with the reference model's scores, in the same way."""
    ratio: Common[float] = 0.5
    """Share of the chunks to keep."""
    corpus: str | None = None
    """The scored corpus, if it has moved."""
    normalise: Literal["mean", "sum"] = "mean"
    """Difference of the losses per token (mean), or of the losses of whole chunks (sum)."""
    exclude: str | None = None
    """Chunks to leave out because the reference was trained on them: its run of `ackd pretrain`, or shares such as
    0:0.05."""
    select: Literal["difference", "random"] = "difference"
    """How to choose the chunks; random keeps the same number, as a control."""
    seed: int = 0
    """Seed of --select random."""
    retokenise: str | None = None
    """Write the corpus in the tokens of this model or tokenizer folder instead."""
    max_length: int | None = None
    """Tokens of a chunk with --retokenise; as in the corpus if not given."""
    inspect: int = 100
    """Number of chunks with the highest and with the lowest scores to write as text."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(ResumableConfig):
    """A language model that continues the chunks of a corpus."""

    model: Common[str]
    """The teacher: folder, a run that contains one, or a hub id."""
    corpus: Common[str]
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder that ackd wrote."""
    max_length: int = 257
    """Tokens of a chunk of a text file: one more than the model reads at once."""
    part: str = "0:1"
    """Part of the corpus to use, as two shares."""
    prompt: Common[float] = 0.75
    """Share of each chunk that is the prompt; the model generates as many tokens as the rest had."""
    temperature: float = 1.0
    """Sampling temperature; 0 always takes the likeliest token."""
    no_repeat: int = 6
    """Length of token sequences that may not repeat in a chunk; 0 allows all."""
    batch_size: Common[int] = 8
    """Chunks in a batch."""
    seed: Common[int] = 0
    """Seed of the sampling."""
    device: Common[str] = "auto"
    """Device of the model: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""
    precision: Precision = "fp32"
    """Precision of the model's computations."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig, LengthConfig, RecipeConfig):
    """A causal language model that learns from a corpus."""

    corpus: Common[str]
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder that ackd wrote."""
    student: Common[str | None] = None
    """The student: folder or hub id of a causal language model to start from, or a JSON config for random weights,
    such as {"model_type": "gpt2", "n_layer": 2}."""
    teacher: Common[str | None] = None
    """A teacher with the same vocabulary, for a KD loss on every token (vanilla KD)."""
    kd_weight: Common[float] = 0.5
    """With --teacher: k in (1 - k) LM + k KD."""
    tokenizer: Common[str | None] = None
    """Tokenizer for a text file: folder or hub id. If not given: the teacher's or the student's, or else one trained on
    the corpus."""
    vocabulary: int = 8192
    """Largest vocabulary of a tokenizer trained on the corpus."""
    max_length: int = 257
    """Tokens of a chunk of a text file: one more than the model reads at once."""
    part: str = "0:1"
    """Part of the corpus to use, as two shares: 0:0.05 for a reference model."""
    dev_data: str | None = None
    """Dev text, in chunks like the corpus, or dev corpus; if not given, the end of the corpus is held out."""
    dev_share: float = 0.05
    """Share of the corpus to hold out, without --dev-data."""
    steps: Common[int | None] = None
    """Optimizer steps; one pass over the corpus if neither --steps, --epochs nor --flops is given."""
    flops: float | None = None
    """FLOPs of the training, student and teacher together; instead of --steps."""
    batch_size: Common[int] = 16
    """Chunks in a batch."""
    accumulate: int = 1
    """Batches per optimizer step; their gradients are added up."""
    lr: Common[float] = 6e-4
    """Peak learning rate."""
    seed: Common[int] = 0
    """Seed of the initialisation, data order and dropout."""
    device: Common[str] = "auto"
    """Device of student and teacher: cpu, cuda, cuda:1, or auto (a GPU if there is one)."""
    precision: Precision = "fp32"
    """Precision of the models' computations; weights, optimizer and losses are always float32."""
    compile: bool = False
    """Compile the student's passes: the first steps take some 20 seconds more, later ones less; meant for GPUs."""
