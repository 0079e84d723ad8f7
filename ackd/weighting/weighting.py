"""The interface of weightings: the examples of each loss, and their weights.

    loss of a term = mean over its R rows of  w_i loss_i

A term is a knowledge type, or `LABELS`. Most trainings take every term on every example with weight 1. Dynamic
distillation selects and weights examples by the student's outputs, a learned weighting by its network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from ackd.costs import CostTracker
from ackd.types import Batch, Knowledge, OutputRequest, Outputs
from ackd.weighting.scores import TopFraction


@dataclass(frozen=True)
class Answers:
    """The outputs and losses of a batch before weighting; a term without rows has no outputs."""

    batch: Batch  # B examples
    student: Outputs  # on all B examples
    teachers: Mapping[str, Outputs]  # by term: its teacher's outputs on the term's rows
    losses: Mapping[str, Tensor]  # by term: the loss of each of its R rows, with gradient
    progress: float = 0.0  # share of the student's budget that is used
    costs: CostTracker = field(default_factory=CostTracker)  # receives the costs of deciding and learning


class Weighting(Protocol):
    """Selects rows before the teachers run, and weights losses afterwards; by default all count 1."""

    def reads(self) -> OutputRequest:
        """The outputs of the student that it reads, besides logits."""
        return OutputRequest()

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """R, or its expected value, of terms that do not use all `size` examples; for the costs of a step."""
        return {}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """The indices in the batch, [R] int64 in ascending order, of terms that do not use the whole batch.

        If R is 0, the term counts nothing and its teacher does not run.
        """
        return {}

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights, [R], of each term without weight 1 for all rows; `rows` is the result of `pick`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state that later steps depend on; empty if nothing is learned."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        return

    def learned(self) -> dict[str, Tensor]:
        """The learned tensors to save with the student."""
        return {}


@dataclass(frozen=True)
class PickedRows(Weighting):
    """Every knowledge type on the picked examples only; the labels on all.

    A teacher runs only on the picked examples.

    References:
        Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021, "data selection",
        https://arxiv.org/abs/2109.11295
    """

    choose: TopFraction

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """The same for each term."""
        return {one.name: self.choose.count(size) for one in terms}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """The same for each term."""
        assert student.logits is not None
        rows = self.choose(student.logits.detach(), batch.labels)
        return {one.name: rows for one in terms}


@dataclass(frozen=True)
class Together(Weighting):
    """Combines two weightings: terms use the examples that both pick, and weights are multiplied."""

    first: Weighting
    second: Weighting

    def reads(self) -> OutputRequest:
        """The outputs that either of them reads."""
        return self.first.reads() | self.second.reads()

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """The expected numbers, if both picks are independent."""
        one, other = self.first.counts(size, terms), self.second.counts(size, terms)
        return {name: round(one.get(name, size) * other.get(name, size) / max(size, 1)) for name in {**one, **other}}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """The examples that both pick."""
        rows, others = dict(self.first.pick(student, batch, terms)), self.second.pick(student, batch, terms)
        common: dict[tuple[int, int], Tensor] = {}  # terms that shared rows still share them, and so a teacher's pass
        for name, theirs in others.items():
            if name in rows:
                mine, both = rows[name], (id(rows[name]), id(theirs))
                rows[name] = common.setdefault(both, mine[torch.isin(mine, theirs)])
            else:
                rows[name] = theirs
        return rows

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The product of both weights of each loss."""
        weights = dict(self.first.weigh(answers, terms, rows))
        for name, theirs in self.second.weigh(answers, terms, rows).items():
            weights[name] = weights[name] * theirs if name in weights else theirs
        return weights

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict` of the same two weightings."""
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])

    def learned(self) -> dict[str, Tensor]:
        """The learned tensors of both."""
        return {**self.first.learned(), **self.second.learned()}


def together(weightings: Sequence[Weighting]) -> Weighting | None:
    """Combines all weightings; None if there are none."""
    return reduce(Together, weightings) if weightings else None
