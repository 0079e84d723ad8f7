"""Shared data types, plain and frozen; the only project import is `CostTracker`.

Shapes: `B` examples, `n` tokens, `C` classes (1 for regression), `d` hidden width, `A` attention heads.
Layers count from 0, the first transformer layer; `EMBEDDINGS` is its input.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ackd.costs import CostTracker

Number = TypeVar("Number", float, Tensor)

EMBEDDINGS = -1
NO_TOKEN = -100  # label if no token follows; torch's cross-entropy ignores it
NEG_LOSS = "neg_loss"  # the metric of language models: minus the mean loss of a next token, in nats
LABELS = "labels"  # name of the label loss among the losses
KNOWLEDGE_FAMILIES = ("logits", "hidden", "attention", "relation")
LAYERED = ("cls", "hidden", "attention", "queries", "keys", "values")


@dataclass(frozen=True)
class Batch:
    """Tokenised examples, padded to one length."""

    ids: Tensor  # [B] int64, the example's row number in its source: stable over epochs and runs; on the host
    inputs: Mapping[str, Tensor]  # each [B, n] int64, the model's inputs: input_ids, attention_mask, ...
    labels: Tensor  # [B] int64 classes, [B] float32 values, [B, d] float32 embeddings, or [B, n] int64 next tokens
    lengths: Tensor = None  # type: ignore[assignment]  # [B] int64, tokens of each; counted if not given; on the host
    others: Mapping[str, Batch] = field(default_factory=dict)  # the same examples in the tokens of other tokenizers

    def __post_init__(self) -> None:
        if self.lengths is None:
            object.__setattr__(self, "lengths", self.mask.sum(1).cpu())

    @property
    def mask(self) -> Tensor:
        """[B, n], 1 for a token and 0 for padding."""
        return self.inputs["attention_mask"]

    @property
    def shape(self) -> tuple[int, int]:
        """`(B, n)`; known on the host, so reading it does not synchronise the device."""
        size, length = self.mask.shape
        return size, length

    @property
    def language(self) -> bool:
        """Whether the labels are the next token of each token."""
        return self.labels.dim() > 1 and not self.labels.is_floating_point()

    @property
    def attended(self) -> Tensor:
        """[B, n, n] bool, the keys that each query sees: tokens, and for language models no later ones."""
        mask = self.mask.bool()
        pairs = mask[:, :, None] & mask[:, None, :]
        return pairs.tril() if self.language else pairs

    @property
    def padded(self) -> bool:
        """Whether any example is shorter than the batch; known on the host."""
        return int(self.lengths.min()) < self.shape[1]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; copies to a GPU are asynchronous."""
        if device == self.mask.device:
            return self

        def sent(value: Tensor) -> Tensor:
            pinned = device.type == "cuda" and value.device.type == "cpu"
            return (value.pin_memory() if pinned else value).to(device, non_blocking=True)

        inputs = {name: sent(value) for name, value in self.inputs.items()}
        others = {name: one.to(device) for name, one in self.others.items()}
        return replace(self, inputs=inputs, labels=sent(self.labels), others=others)

    def rows(self, indices: Sequence[int]) -> Batch:
        """The examples at `indices`, with padding only up to the longest one."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        lengths = self.lengths[chosen]
        longest = int(lengths.max())
        there = chosen.to(self.mask.device, non_blocking=True)
        inputs = {name: value[there, :longest] for name, value in self.inputs.items()}
        labels = self.labels[there]
        labels = labels[:, :longest] if self.language else labels
        others = {name: one.rows(indices) for name, one in self.others.items()}
        return Batch(self.ids[chosen], inputs, labels, lengths, others)


class OutputKey(NamedTuple):
    """The key of one output tensor of a model."""

    kind: str  # logits, or one of LAYERED
    layer: int = 0  # 0 for logits


@dataclass(frozen=True)
class OutputRequest:
    """The requested outputs of a model; nothing else is computed."""

    logits: bool = False
    cls: frozenset[int] = frozenset()  # layers; also in the fields below
    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    queries: frozenset[int] = frozenset()
    keys: frozenset[int] = frozenset()
    values: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for kind in LAYERED:  # a set or list of layers is accepted too
            if not isinstance(layers := getattr(self, kind), frozenset):
                object.__setattr__(self, kind, frozenset(layers))

    @classmethod
    def of(cls, fields: Iterable[OutputKey]) -> OutputRequest:
        """A request for the given fields."""
        layers: dict[str, set[int]] = {}
        for kind, layer in fields:
            layers.setdefault(kind, set()).add(layer)
        logits = layers.pop("logits", None) is not None
        return OutputRequest(logits, **{kind: frozenset(those) for kind, those in layers.items()})

    @property
    def fields(self) -> tuple[OutputKey, ...]:
        """The keys of all requested tensors, in a fixed order."""
        layered = (OutputKey(kind, layer) for kind in LAYERED for layer in sorted(getattr(self, kind)))
        return ((OutputKey("logits"),) if self.logits else ()) + tuple(layered)

    @property
    def last_layer(self) -> int | None:
        """The last layer that has to run; None if the whole model has to run."""
        return None if self.logits else max((layer for _, layer in self.fields), default=EMBEDDINGS)

    def __or__(self, other: OutputRequest) -> OutputRequest:
        return OutputRequest(
            self.logits or other.logits, *(getattr(self, kind) | getattr(other, kind) for kind in LAYERED)
        )

    def __bool__(self) -> bool:
        return self.logits or any(getattr(self, kind) for kind in LAYERED)


@dataclass(frozen=True)
class Outputs:
    """The requested outputs of a model. Values at padding are arbitrary, but finite."""

    logits: Tensor | None = None  # [B, C], [B, n, V] of a language model, or [B, d], a sentence encoder's embeddings
    cls: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, d], the first token of the layer's output
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, n, d], the layer's output
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, A, n, n], scores before softmax
    queries: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, n, d], all heads side by side
    keys: Mapping[int, Tensor] = field(default_factory=dict)  # like queries
    values: Mapping[int, Tensor] = field(default_factory=dict)  # like queries

    @classmethod
    def of(cls, tensors: Mapping[OutputKey, Tensor]) -> Outputs:
        """Builds outputs from tensors by key."""
        layered: dict[str, dict[int, Tensor]] = {kind: {} for kind in LAYERED}
        for (kind, layer), value in tensors.items():
            if kind != "logits":
                layered[kind][layer] = value
        return Outputs(tensors.get(OutputKey("logits")), **layered)

    @property
    def tensors(self) -> dict[OutputKey, Tensor]:
        """The tensors by key: the inverse of `of`."""
        layered = {OutputKey(kind, layer): one for kind in LAYERED for layer, one in getattr(self, kind).items()}
        return layered if self.logits is None else {OutputKey("logits"): self.logits, **layered}

    def rows(self, indices: Tensor, length: int) -> Outputs:
        """The outputs of the examples at `indices`, [R] on the device, cut to `length` tokens."""

        def cut(kind: str, value: Tensor) -> Tensor:
            chosen = value.index_select(0, indices)
            if kind == "cls":
                return chosen
            return chosen[:, :, :length, :length] if kind == "attention" else chosen[:, :length]

        layered = {kind: {at: cut(kind, one) for at, one in getattr(self, kind).items()} for kind in LAYERED}
        logits = None if self.logits is None else self.logits.index_select(0, indices)
        if logits is not None and logits.dim() > 2:
            logits = logits[:, :length]
        return Outputs(logits, **layered)

    def __getitem__(self, wanted: OutputKey) -> Tensor:
        if wanted.kind == "logits":
            assert self.logits is not None
            return self.logits
        return getattr(self, wanted.kind)[wanted.layer]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Selection:
    """The weights of the knowledge types and the labels in the next optimizer steps.

    A type that is missing or has weight 0 is not computed and costs nothing; without any type, only labels are used.

    Raises:
        ValueError: if a weight is negative, infinite or NaN, or all weights are 0.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    labels: float = 1.0  # the weight of the label loss

    def __post_init__(self) -> None:
        for name, weight in {**self.weights, "labels": self.labels}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} must be finite and not negative, got {weight}")
        if not (self.labels or self.chosen):
            raise ValueError("nothing is selected, not even the labels: there is nothing to learn from")

    @classmethod
    def of(cls, *names: str) -> Selection:
        """A selection of the named types, each with weight 1."""
        return cls(dict.fromkeys(names, 1.0))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the types with a weight above 0."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)


@dataclass(frozen=True)
class StepMetrics(Generic[Number]):
    """Metrics of training steps.

    `StepMetrics[Tensor]` ([] or [N], on the device) are those of one step, `StepMetrics[float]` means over steps.
    """

    loss: Number  # the weighted sum that was minimised
    labels: Number  # the label loss
    grad_norm: Number  # before clipping
    uncertainty: Number  # mean entropy of the student's predictions, divided by log C; 0 without classes
    accuracy: Number  # share of the examples with a correct prediction; 0 without classes
    losses: Mapping[str, Number]  # per selected knowledge type, before weight and scale
    # comparison of gradients, on the first batch only; empty if it is off
    cosines: Mapping[str, Number] = field(default_factory=dict)  # cosine of each type's gradient with the labels'
    norms: Mapping[str, Number] = field(default_factory=dict)  # norm of each type's and the labels' gradient

    @property
    def finite(self: StepMetrics[float]) -> bool:
        """Whether all numbers are finite (the training has not diverged)."""
        return all(map(math.isfinite, self.numbers))

    @property
    def numbers(self) -> list[Number]:
        """All numbers, in a fixed order."""
        return self._of_steps + list(self.cosines.values()) + list(self.norms.values())

    @property
    def _of_steps(self) -> list[Number]:
        """The numbers that every step has (all but cosines and norms)."""
        first = [self.loss, self.labels, self.grad_norm, self.uncertainty, self.accuracy]
        return first + list(self.losses.values())

    def of(self, numbers: Iterable[float]) -> StepMetrics[float]:
        """Metrics of the same structure with other numbers."""
        loss, labels, grad_norm, uncertainty, accuracy, *rest = numbers
        left = iter(rest)
        losses, cosines, norms = (
            dict(zip(table, islice(left, len(table)), strict=True)) for table in (self.losses, self.cosines, self.norms)
        )
        return StepMetrics(loss, labels, grad_norm, uncertainty, accuracy, losses, cosines, norms)


def means(reports: Sequence[StepMetrics[Tensor]]) -> list[StepMetrics[float]]:
    """The mean metrics of each student over steps under one selection, read from the device in one transfer.

    Cosines and norms are those of the first step, because only the first step has them.

    Raises:
        ValueError: if `reports` is empty.
    """
    if not reports:
        raise ValueError("there is no report to take the mean of")
    numbers = torch.stack([torch.stack(one._of_steps) for one in reports]).double().mean(0)
    compared = [*reports[0].cosines.values(), *reports[0].norms.values()]
    if compared:
        numbers = torch.cat([numbers, torch.stack(compared).double()])
    return [reports[0].of(those) for those in numbers.reshape(len(numbers), -1).T.tolist()]


def shown_score(metric: str, value: float) -> float:
    """A score as results have it: in percent, but a loss in nats."""
    return round(value if metric == NEG_LOSS else 100 * value, 4)


def unit(metric: str) -> str:
    """The unit of a shown score."""
    return "nats" if metric == NEG_LOSS else "%"


def decimals(metric: str) -> int:
    """The decimals with which a score is printed."""
    return 4 if metric == NEG_LOSS else 2


@dataclass(frozen=True)
class EvalResult:
    """Metrics of a model on one split."""

    loss: float  # mean label loss
    score: float  # the task's main metric, higher is better
    scores: Mapping[str, float] = field(default_factory=dict)  # every metric of the task
    # the numbers below are 0 for language models; comparisons with a teacher are 0 without a teacher, and on dev
    probability: float = 0.0  # mean probability of the label; 0 for regression
    divergence: float = 0.0  # mean KL(teacher || student) in nats; regression: mean squared difference of predictions
    teacher_correlation: float = 0.0  # of the logits, centred over classes; regression: of the predictions
    label_correlation: float = 0.0  # the same with one-hot labels; regression: with the labels
    # for embeddings: the mean cosine with the labels, and correlations of the cosines of all pairs of texts

    @property
    def agreement(self) -> float:
        """`(teacher_correlation + label_correlation) / 2`: agreement with teacher and labels, equally weighted."""
        return 0.5 * (self.teacher_correlation + self.label_correlation)

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite, apart from the metrics of `scores`."""
        compared = (self.divergence, self.teacher_correlation, self.label_correlation)
        return all(map(math.isfinite, (self.loss, self.score, self.probability, *compared)))


@dataclass(frozen=True)
class ModelDims:
    """The sizes of a transformer; knowledge types and costs depend on them."""

    layers: int
    width: int
    heads: int
    classes: int  # for a language model, the vocabulary; for a sentence encoder, the width of the embeddings
    vocabulary: int


class Teacher(Protocol):
    """An object that returns outputs for a batch."""

    @property
    def shape(self) -> ModelDims:
        """The sizes of its outputs."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the teacher: teachers with equal fingerprints return equal outputs for equal batches."""
        ...

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The requested outputs, without gradient; adds its costs to `costs`."""
        ...

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of computing the outputs of a padded batch."""
        ...


class Knowledge(nn.Module, ABC):
    """One kind of loss between a student's and a teacher's outputs.

    It is a module, so that its projections are moved, trained and saved like other weights; they are not part of the
    student. `forward` returns one loss per example, `[B]`, that does not depend on padding.
    """

    name: str  # name in selections, policies and curves
    family: ClassVar[str]  # one of KNOWLEDGE_FAMILIES
    teacher: int = 0  # index of its teacher among the distiller's teachers

    student_needs: OutputRequest
    teacher_needs: OutputRequest

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""

    @abstractmethod
    def flops(self, size: int, length: int) -> float:
        """FLOPs of the loss's own matrix products, backward included, for `size` examples of `length` tokens."""


def union(needs: Iterable[OutputRequest]) -> OutputRequest:
    """The union of several requests."""
    result = OutputRequest()
    for need in needs:
        result = result | need
    return result
