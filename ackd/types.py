"""The shared data types: plain and frozen; of the project they import `CostTracker` alone.

Shapes: `B` examples, `n` tokens, `C` classes (1 for regression), `d` hidden width, `A` attention heads.
Layers count from 0, the first transformer layer; `EMBEDDINGS` is what enters it.
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
NO_TOKEN = -100  # the label where no token follows; what torch's cross-entropy leaves out
LABELS = "labels"  # the term of the gold labels, beside those of the knowledge types
KNOWLEDGE_FAMILIES = ("logits", "hidden", "attention", "relation")
LAYERED = ("cls", "hidden", "attention", "queries", "keys", "values")


@dataclass(frozen=True)
class Batch:
    """Some tokenised examples, padded to one length."""

    ids: Tensor  # [B] int64, the example's place in its task's split: stable over epochs and runs; on the host
    inputs: Mapping[str, Tensor]  # each [B, n] int64, as the model takes them: input_ids, attention_mask, ...
    labels: Tensor  # [B] int64 classes, float32 values for regression, or [B, n] int64 next tokens, else `NO_TOKEN`
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
        """`(B, n)`; known on the host, so reading it never waits for a device."""
        size, length = self.mask.shape
        return size, length

    @property
    def padded(self) -> bool:
        """Whether any example is shorter than the batch; known on the host."""
        return int(self.lengths.min()) < self.shape[1]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the copy to a GPU does not hold up the host."""
        if device == self.mask.device:
            return self

        def sent(value: Tensor) -> Tensor:
            pinned = device.type == "cuda" and value.device.type == "cpu"
            return (value.pin_memory() if pinned else value).to(device, non_blocking=True)

        inputs = {name: sent(value) for name, value in self.inputs.items()}
        others = {name: one.to(device) for name, one in self.others.items()}
        return replace(self, inputs=inputs, labels=sent(self.labels), others=others)

    def rows(self, indices: Sequence[int]) -> Batch:
        """The examples at `indices`, cut to the longest of them."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        lengths = self.lengths[chosen]
        longest = int(lengths.max())
        there = chosen.to(self.mask.device, non_blocking=True)
        inputs = {name: value[there, :longest] for name, value in self.inputs.items()}
        labels = self.labels[there]
        labels = labels[:, :longest] if labels.dim() > 1 else labels
        others = {name: one.rows(indices) for name, one in self.others.items()}
        return Batch(self.ids[chosen], inputs, labels, lengths, others)


class OutputKey(NamedTuple):
    """One tensor that a model can be asked for."""

    kind: str  # logits, or one of LAYERED
    layer: int = 0  # 0 for logits


@dataclass(frozen=True)
class OutputRequest:
    """Which outputs of a model somebody asks for; nothing else is computed."""

    logits: bool = False
    cls: frozenset[int] = frozenset()  # layers, in all that follow
    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    queries: frozenset[int] = frozenset()
    keys: frozenset[int] = frozenset()
    values: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for kind in LAYERED:  # a set or a list of layers will do
            if not isinstance(layers := getattr(self, kind), frozenset):
                object.__setattr__(self, kind, frozenset(layers))

    @classmethod
    def of(cls, fields: Iterable[OutputKey]) -> OutputRequest:
        """Just these fields."""
        layers: dict[str, set[int]] = {}
        for kind, layer in fields:
            layers.setdefault(kind, set()).add(layer)
        logits = layers.pop("logits", None) is not None
        return OutputRequest(logits, **{kind: frozenset(those) for kind, those in layers.items()})

    @property
    def fields(self) -> tuple[OutputKey, ...]:
        """Each tensor asked for, in one fixed order."""
        layered = (OutputKey(kind, layer) for kind in LAYERED for layer in sorted(getattr(self, kind)))
        return ((OutputKey("logits"),) if self.logits else ()) + tuple(layered)

    @property
    def last_layer(self) -> int | None:
        """The last layer that has to run; None if all of the model has to."""
        return None if self.logits else max((layer for _, layer in self.fields), default=EMBEDDINGS)

    def __or__(self, other: OutputRequest) -> OutputRequest:
        return OutputRequest(
            self.logits or other.logits, *(getattr(self, kind) | getattr(other, kind) for kind in LAYERED)
        )

    def __bool__(self) -> bool:
        return self.logits or any(getattr(self, kind) for kind in LAYERED)


@dataclass(frozen=True)
class Outputs:
    """What a model answered: what was asked for, and nothing else. At padding it may say anything that is finite."""

    logits: Tensor | None = None  # [B, C], or [B, n, V] of a language model
    cls: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, d], the first token of the layer's output
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, n, d], the layer's output
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, A, n, n], scores before softmax
    queries: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, n, d], all heads side by side
    keys: Mapping[int, Tensor] = field(default_factory=dict)  # as queries
    values: Mapping[int, Tensor] = field(default_factory=dict)  # as queries

    @classmethod
    def of(cls, tensors: Mapping[OutputKey, Tensor]) -> Outputs:
        """From one tensor a field."""
        layered: dict[str, dict[int, Tensor]] = {kind: {} for kind in LAYERED}
        for (kind, layer), value in tensors.items():
            if kind != "logits":
                layered[kind][layer] = value
        return Outputs(tensors.get(OutputKey("logits")), **layered)

    @property
    def tensors(self) -> dict[OutputKey, Tensor]:
        """One tensor a field, as `of` takes them."""
        layered = {OutputKey(kind, layer): one for kind in LAYERED for layer, one in getattr(self, kind).items()}
        return layered if self.logits is None else {OutputKey("logits"): self.logits, **layered}

    def rows(self, indices: Tensor, length: int) -> Outputs:
        """Those of the examples at `indices`, [R] on the device, cut to `length` tokens."""

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
    """Which knowledge to transfer, with which weight, for the next optimizer steps.

    A type that is missing or has weight 0 is not computed and not paid for; no type at all means labels only.

    Raises:
        ValueError: if a weight is negative, infinite or NaN, or all of them are 0.
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
        """The named types, each with weight 1."""
        return cls(dict.fromkeys(names, 1.0))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the types with a weight above 0."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)


@dataclass(frozen=True)
class StepMetrics(Generic[Number]):
    """What optimizer steps measured: `StepMetrics[Tensor]` ([] or [N], on the device) of one, `[float]` of many."""

    loss: Number  # the weighted sum that was minimised
    labels: Number  # the label loss
    grad_norm: Number  # before clipping
    uncertainty: Number  # of the student: mean entropy of its answers over log C; 0 for regression
    accuracy: Number  # share of the examples whose likeliest class is the label's; 0 for regression
    losses: Mapping[str, Number]  # per selected knowledge type, before weight and scale
    # where they are compared, on the first batch alone: of the gradients of the labels and the selected types
    cosines: Mapping[str, Number] = field(default_factory=dict)  # of each type's with the labels'
    norms: Mapping[str, Number] = field(default_factory=dict)  # of each type's, and of the labels'

    @property
    def finite(self: StepMetrics[float]) -> bool:
        """Whether nothing diverged."""
        return all(map(math.isfinite, self.numbers))

    @property
    def numbers(self) -> list[Number]:
        """All of them, in their order."""
        return self._of_steps + list(self.cosines.values()) + list(self.norms.values())

    @property
    def _of_steps(self) -> list[Number]:
        """Those that every step measures."""
        first = [self.loss, self.labels, self.grad_norm, self.uncertainty, self.accuracy]
        return first + list(self.losses.values())

    def of(self, numbers: Iterable[float]) -> StepMetrics[float]:
        """Such a report with other numbers."""
        loss, labels, grad_norm, uncertainty, accuracy, *rest = numbers
        left = iter(rest)
        losses, cosines, norms = (
            dict(zip(table, islice(left, len(table)), strict=True)) for table in (self.losses, self.cosines, self.norms)
        )
        return StepMetrics(loss, labels, grad_norm, uncertainty, accuracy, losses, cosines, norms)


def means(reports: Sequence[StepMetrics[Tensor]]) -> list[StepMetrics[float]]:
    """Of each student the mean of some steps under one selection, read from the device in a single transfer.

    Cosines and norms are those of the first, which alone has them.

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


@dataclass(frozen=True)
class EvalResult:
    """How a model does on one split."""

    loss: float  # mean label loss
    score: float  # the task's main metric, higher is better
    scores: Mapping[str, float] = field(default_factory=dict)  # every metric of the task
    # what follows is 0 for language models; what compares with a teacher is 0 without one, and on dev
    probability: float = 0.0  # mean probability of the label; 0 for regression
    divergence: float = 0.0  # mean KL(teacher || student) in nats; of regression, mean squared difference of answers
    teacher_correlation: float = 0.0  # of the logits, each less its mean over classes, or of regression the answers
    label_correlation: float = 0.0  # the same with one-hot labels, or of regression the labels

    @property
    def agreement(self) -> float:
        """`(teacher_correlation + label_correlation) / 2`: with the teacher and the labels alike."""
        return 0.5 * (self.teacher_correlation + self.label_correlation)

    @property
    def finite(self) -> bool:
        """Whether all but the metrics of `scores` are numbers to reckon with."""
        compared = (self.divergence, self.teacher_correlation, self.label_correlation)
        return all(map(math.isfinite, (self.loss, self.score, self.probability, *compared)))


@dataclass(frozen=True)
class ModelDims:
    """The sizes of a transformer that knowledge and cost depend on."""

    layers: int
    width: int
    heads: int
    classes: int
    vocabulary: int


class Teacher(Protocol):
    """Anything that answers a batch with outputs."""

    @property
    def shape(self) -> ModelDims:
        """The sizes of what it answers with."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names all that its answers depend on but the question: equal fingerprints, equal answers."""
        ...

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The outputs asked for, without gradient; `costs` is told what that took."""
        ...

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of one answer that is computed, for a padded batch."""
        ...


class Knowledge(nn.Module, ABC):
    """One kind of loss between a student's and a teacher's outputs.

    A module, so that projections move, train and save like any other weights; they belong to the distiller and never
    to the student. `forward` returns one loss per example, `[B]`, in which padding has no part.
    """

    name: str  # what selections, policies and curves call it
    family: ClassVar[str]  # one of KNOWLEDGE_FAMILIES
    teacher: int = 0  # the place, among the distiller's teachers, of the one it learns from

    student_needs: OutputRequest
    teacher_needs: OutputRequest

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""

    @abstractmethod
    def flops(self, size: int, length: int) -> float:
        """FLOPs of the loss's own matrix products, backward included, for `size` examples of `length` tokens."""


def union(needs: Iterable[OutputRequest]) -> OutputRequest:
    """Everything that any of them asks for."""
    result = OutputRequest()
    for need in needs:
        result = result | need
    return result
