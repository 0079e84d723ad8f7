"""What can be set of commands on texts: their scores, what is kept or written of them, and a model that learns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ackd.config import Common, LengthConfig, Precision, RecipeConfig
from ackd.experiments.options import OutputConfig, ResumableConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ResumableConfig):
    """A language model that is asked about each chunk of a corpus."""

    model: Common[str]
    """The model: folder, a run that holds one, or a hub id."""
    corpus: Common[str]
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder of ours."""
    max_length: int = 257
    """Of a text file: tokens of a chunk, one more than the model reads at once."""
    batch_size: Common[int] = 8
    """Chunks that the model is asked about at a time."""
    shard: str | None = None
    """Score one part of the corpus, as 1/4 to 4/4; `refine-data` takes the folders of all of them together. Processes
    that torchrun starts take a part each, and leave OUTPUT/shard-1-of-4 and so on."""
    device: Common[str] = "auto"
    """Where the model is: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
    precision: Precision = "fp32"
    """What it computes in."""


@dataclass(frozen=True, kw_only=True)
class RefineConfig(OutputConfig):
    """The part of a corpus that is kept by its scores."""

    teacher_scores: Common[tuple[str, ...]]
    """Scores of the teacher by `ackd score`; of a corpus in shards, all of them."""
    reference_scores: Common[tuple[str, ...]]
    """Scores of the reference, likewise."""
    ratio: Common[float] = 0.5
    """The share of the chunks to keep."""
    corpus: str | None = None
    """The corpus that was scored, if it lies elsewhere now."""
    normalise: Literal["mean", "sum"] = "mean"
    """Difference of the losses a token, or of those of a whole chunk."""
    exclude: str | None = None
    """Chunks to leave out, since the reference was trained on them: its run by `ackd pretrain`, or shares such as
    0:0.05."""
    select: Literal["difference", "random"] = "difference"
    """Which chunks to keep; random keeps as many, as a control."""
    seed: int = 0
    """Of --select random."""
    retokenise: str | None = None
    """Write the corpus in the tokens of this model or tokenizer folder instead."""
    max_length: int | None = None
    """With --retokenise: tokens of a chunk; as in the corpus if not given."""
    inspect: int = 100
    """Chunks with the highest and with the lowest score to write as text."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(ResumableConfig):
    """A language model that goes on with the chunks of a corpus."""

    model: Common[str]
    """The teacher that writes: folder, a run that holds one, or a hub id."""
    corpus: Common[str]
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder of ours."""
    max_length: int = 257
    """Of a text file: tokens of a chunk, one more than the model reads at once."""
    part: str = "0:1"
    """Use this part of the corpus alone, as two shares."""
    prompt: Common[float] = 0.75
    """The share of each chunk that the model is given; it writes as many tokens as the rest had."""
    temperature: float = 1.0
    """Of what it writes; 0 takes the likeliest token each time."""
    no_repeat: int = 6
    """No run of so many tokens comes twice in a chunk; 0 lets any."""
    batch_size: Common[int] = 8
    """Chunks that are written at a time."""
    seed: Common[int] = 0
    """Of what is drawn."""
    device: Common[str] = "auto"
    """Where the model is: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
    precision: Precision = "fp32"
    """What it computes in."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig, LengthConfig, RecipeConfig):
    """A causal language model that learns from a corpus."""

    corpus: Common[str]
    """UTF-8 text with blank lines between documents, JSON lines with a "text", or a corpus folder of ours."""
    student: Common[str | None] = None
    """The student: folder or hub id of a causal language model to go on from, or a JSON config to draw weights for,
    such as {"model_type": "gpt2", "n_layer": 2}."""
    teacher: Common[str | None] = None
    """A teacher with the same vocabulary, which is asked about every token (vanilla KD)."""
    kd_weight: Common[float] = 0.5
    """With --teacher: k in (1 - k) LM + k KD."""
    tokenizer: Common[str | None] = None
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
    steps: Common[int | None] = None
    """Optimizer steps; one pass over the corpus if neither this, --epochs nor --flops is given."""
    flops: float | None = None
    """Instead of --steps: as many as cost so many FLOPs, the student's and the teacher's."""
    batch_size: Common[int] = 16
    """Chunks in a batch."""
    accumulate: int = 1
    """Batches whose gradients make one optimizer step."""
    lr: Common[float] = 6e-4
    """Peak learning rate."""
    seed: Common[int] = 0
    """Seed of the initialisation, data order and dropout."""
    device: Common[str] = "auto"
    """Where student and teacher are: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
    precision: Precision = "fp32"
    """What the models compute in; weights, optimizer and losses are in float32 either way."""
    compile: bool = False
    """Compile the student's passes: the first steps take some 20 seconds more, the others less; meant for GPUs."""
