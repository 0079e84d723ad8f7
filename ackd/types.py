"""The shared data types: plain, frozen, and free of every other module of the project.

Shapes: `B` examples, `n` tokens, `C` classes (1 for regression), `d` hidden width, `A` attention heads.
Layers count from 0, the first transformer layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Batch:
    """Some tokenised examples, padded to one length."""

    ids: Tensor  # [B] int64, the example's place in its task's split: stable over epochs and runs
    inputs: Mapping[str, Tensor]  # each [B, n] int64, as the model takes them: input_ids, attention_mask, ...
    labels: Tensor  # [B] int64 classes, or float32 values for regression

    @property
    def mask(self) -> Tensor:
        """[B, n], 1 for a token and 0 for padding."""
        return self.inputs["attention_mask"]

    @property
    def shape(self) -> tuple[int, int]:
        """`(B, n)`; known on the host, so reading it never waits for a device."""
        size, length = self.mask.shape
        return size, length

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            inputs=inputs,
            labels=self.labels.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Needs:
    """Which outputs of a model somebody asks for; nothing else is computed."""

    logits: bool = False
    hidden: frozenset[int] = frozenset()  # layers
    attention: frozenset[int] = frozenset()  # layers

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.logits or other.logits, self.hidden | other.hidden, self.attention | other.attention)

    def __bool__(self) -> bool:
        return self.logits or bool(self.hidden) or bool(self.attention)


@dataclass(frozen=True)
class Outputs:
    """What a model answered: what was asked for, and nothing else."""

    logits: Tensor | None = None  # [B, C]
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, n, d], the layer's output
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, A, n, n], scores before softmax


@dataclass(frozen=True)
class Selection:
    """Which knowledge to transfer, with which weight, for the next optimizer steps.

    A type that is missing or has weight 0 is not computed and not paid for; no type at all means labels only.

    Raises:
        ValueError: if a weight is negative, infinite or NaN.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} must be finite and not negative, got {weight}")

    @classmethod
    def of(cls, *names: str) -> Selection:
        """The named types, each with weight 1."""
        return cls(dict.fromkeys(names, 1.0))

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the types with a weight above 0."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)


@dataclass(frozen=True)
class Report(Generic[Number]):
    """What optimizer steps measured: `Report[Tensor]` (0-d, on the device) for one, `Report[float]` for a phase."""

    loss: Number  # the weighted sum that was minimised
    labels: Number  # the label loss
    grad_norm: Number  # before clipping
    losses: Mapping[str, Number]  # per selected knowledge type, before weight and scale

    @property
    def finite(self: Report[float]) -> bool:
        """Whether nothing diverged."""
        return all(math.isfinite(value) for value in (self.loss, self.labels, self.grad_norm, *self.losses.values()))


def mean(reports: Sequence[Report[Tensor]]) -> Report[float]:
    """The mean of some steps under one selection, read from the device in a single transfer.

    Raises:
        ValueError: if `reports` is empty.
    """
    if not reports:
        raise ValueError("there is no report to take the mean of")
    names = tuple(reports[0].losses)
    rows = [torch.stack([r.loss, r.labels, r.grad_norm, *(r.losses[name] for name in names)]) for r in reports]
    loss, labels, grad_norm, *losses = torch.stack(rows).double().mean(0).tolist()
    return Report(loss, labels, grad_norm, dict(zip(names, losses, strict=True)))


@dataclass(frozen=True)
class Standing:
    """How a model does on one split."""

    loss: float  # mean label loss
    score: float  # the task's main metric, higher is better
    scores: Mapping[str, float] = field(default_factory=dict)  # every metric of the task
    uncertainty: float = 0.0  # mean entropy over log C; 0 for regression
    agreement: float = 0.0  # share of examples on which it answers as the teacher does; 0 for regression

    @property
    def finite(self) -> bool:
        """Whether loss and score are numbers to reckon with."""
        return math.isfinite(self.loss) and math.isfinite(self.score)


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer that knowledge and cost depend on."""

    layers: int
    width: int
    heads: int
    classes: int
    vocabulary: int


class Teacher(Protocol):
    """Anything that answers a batch with outputs."""

    @property
    def shape(self) -> Shape:
        """The sizes of what it answers with."""
        ...

    def __call__(self, batch: Batch, needs: Needs) -> Outputs:
        """The outputs asked for, without gradient."""
        ...


class Knowledge(nn.Module, ABC):
    """One kind of loss between a student's and a teacher's outputs.

    A module, so that projections move, train and save like any other weights; they belong to the distiller and never
    to the student. `forward` returns one loss per example, `[B]`, in which padding has no part.
    """

    name: str  # what selections, policies and curves call it
    family: ClassVar[str]  # logits | hidden | attention | relation

    student_needs: Needs
    teacher_needs: Needs

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""

    @abstractmethod
    def flops(self, size: int, length: int) -> float:
        """Floating-point operations of the loss, backward included, for `size` examples of `length` tokens."""


def union(needs: Iterable[Needs]) -> Needs:
    """Everything that any of them asks for."""
    result = Needs()
    for need in needs:
        result = result | need
    return result
