"""Common parts of learned weightings: their inputs, their learning settings and their network.

A `Weighting` reads the outputs of student and teachers on each training batch, and never dev. It draws from its own
generator, so the student's initialisation, data order and dropout are those of any other run with the same seed. No
gradient of the student's loss passes through the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from ackd.errors import InputError
from ackd.files.reading import matches_schema, restore
from ackd.knowledge import label_loss
from ackd.types import LABELS, Knowledge
from ackd.weighting.weighting import Answers


@dataclass(frozen=True)
class Learning:
    """The settings by which the network of a weighting learns.

    Args:
        rate: learning rate; with 0 the network keeps its initial weights.
        every: batches between updates.
        warmup: share of the student's budget before it learns; until then all teachers have equal weights.

    Raises:
        InputError: if a value is out of range.
    """

    rate: float = 1e-3
    every: int = 1
    warmup: float = 0.3

    def __post_init__(self) -> None:
        if not (0.0 <= self.rate < math.inf):
            raise InputError(f"the policy's learning rate is {self.rate}: give a finite number, 0 or more")
        if self.every < 1:
            raise InputError(f"an update after {self.every} batches is none: give at least 1")
        if not 0.0 <= self.warmup <= 1.0:
            raise InputError(f"a warm-up of {self.warmup} of the budget cannot be: give 0 to 1")


@dataclass(frozen=True)
class Seen:
    """Outputs and losses of R examples and K teachers, without gradient."""

    ids: list[int]  # R, as in the batch
    labels: Tensor  # [R]
    student: Tensor  # [R, C], logits
    error: Tensor  # [R], the student's label loss
    teachers: Tensor  # [R, K, C], logits
    errors: Tensor  # [R, K], their label losses
    gaps: Tensor  # [R, K], the losses between their logits and the student's
    rows: Tensor | None  # [R], indices in the batch; None for the whole batch


def look(answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Seen | None:
    """Collects outputs and losses of the terms on their examples; None if there are none."""
    own = {one.teacher: one.name for one in terms if one.family == "logits"}
    if not own:
        return None
    indices = [rows.get(one.name) for one in terms]
    rows_of_all = indices[0]
    for other in indices:
        if other is not rows_of_all and (other is None or rows_of_all is None or not torch.equal(other, rows_of_all)):
            raise InputError(
                "learned teacher weights compare every teacher on the same examples, and here each teaches others: "
                "leave the other preset away"
            )
    logits = answers.student.logits
    assert logits is not None
    if logits.dim() > 2:
        raise InputError("learned teacher weights are of examples with a class, and a language model has none: use kd")
    if rows_of_all is not None and not len(rows_of_all):
        return None
    taken = slice(None) if rows_of_all is None else rows_of_all
    ids = answers.batch.ids if rows_of_all is None else answers.batch.ids[rows_of_all.cpu()]
    labels = answers.batch.labels[taken]
    names = [own[teacher] for teacher in sorted(own)]
    theirs = [cast(Tensor, answers.teachers[name].logits).float() for name in names]
    return Seen(
        ids.tolist(),
        labels,
        logits.detach()[taken].float(),
        answers.losses[LABELS].detach()[taken].float(),
        torch.stack(theirs, 1),
        torch.stack([label_loss(one, labels) for one in theirs], 1),
        torch.stack([answers.losses[name].detach().float() for name in names], 1),
        rows_of_all,
    )


def check_teachers(teachers: int, classes: int) -> None:
    """Rejects models with nothing to weight.

    Raises:
        InputError: for fewer than two teachers or classes.
    """
    if teachers < 2:
        raise InputError("one teacher has nobody to be weighed against: name a second one with --teacher, or use kd")
    if classes < 2:
        raise InputError(
            "teachers are weighed by their distributions over classes, and a model with 1 output, as for a regression, "
            "has none: average them (--knowledge logits --teacher-weights 0.5 0.5)"
        )


class Network:
    """A network with its own optimizer."""

    def __init__(self, layers: nn.Module, optimizer: Adam | SGD) -> None:
        self.layers, self._optimizer = layers, optimizer

    def __call__(self, state: Tensor) -> Tensor:
        """The output of the network, with gradient."""
        return cast(Tensor, self.layers(state))

    @property
    def width(self) -> int:
        """S, the number of inputs for each example."""
        return next(layer.in_features for layer in self.layers.modules() if isinstance(layer, nn.Linear))

    def flops(self, examples: int) -> float:
        """FLOPs of a forward pass over `examples`; learning from them takes three times as many."""
        return 2.0 * examples * sum(one.weight.numel() for one in self.layers.modules() if isinstance(one, nn.Linear))

    def to(self, device: torch.device) -> None:
        """Moves the network and the optimizer's state to a device."""
        if next(self.layers.parameters()).device != device:
            self.layers.to(device)
            self._optimizer.load_state_dict(self._optimizer.state_dict())

    def learn(self, loss: Tensor) -> None:
        """Takes one optimizer step."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The weights, and the optimizer's state."""
        return {"layers": self.layers.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        self.layers.load_state_dict(state["layers"])
        restore(self._optimizer, state["optimizer"])

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights, by name."""
        return {f"network.{name}": value.detach().cpu().clone() for name, value in self.layers.state_dict().items()}


def check_batches(batches: Any, *rows: Tensor) -> None:
    """Checks that loaded batches, each a tuple of tensors [R, ...], have rows like `rows`.

    Raises:
        ValueError: if the batches are of another policy.
    """
    for one in batches:
        if not matches_schema(one, tuple(row.expand(len(one[0]), *row.shape) for row in rows)):
            raise ValueError("the decisions are those of another policy")


def joined(batches: Iterable[Sequence[Tensor]], device: torch.device) -> tuple[Tensor, ...]:
    """Concatenates batches on one device, kind by kind; a loaded state may be on another device."""
    return tuple(torch.cat([one.to(device) for one in kind]) for kind in zip(*batches, strict=True))


class MeanWeights:
    """The mean weight of each teacher over all examples since the warm-up."""

    def __init__(self, teachers: int) -> None:
        self.total, self.count = torch.zeros(teachers), 0

    def add(self, weights: Tensor) -> None:
        """Adds weights [R, K]."""
        self.total = self.total.to(weights.device) + weights.sum(0)
        self.count += len(weights)

    def state_dict(self) -> dict[str, Any]:
        """The sum and the count."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`.

        Raises:
            ValueError: if the state is of other teachers.
        """
        if not matches_schema(state, {"total": self.total, "count": 0}):
            raise ValueError("the mean weights are those of other teachers")
        self.total, self.count = state["total"].clone(), state["count"]

    def value(self) -> Tensor:
        """The mean weights, [K]; 0 without examples."""
        return self.total.cpu() / max(self.count, 1)
