"""Which examples each loss is taken on, and how much each of them counts.

    loss of a term = mean over its R rows of  w_i loss_i

A term is a knowledge type, or `LABELS`. Most trainings take every term on every example, each counting 1; dynamic
distillation picks and weighs by what the student's answers say, and a learned weighting by what it has learned.
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
    """What is known of a batch when its losses are weighed; a term that is taken on no row has no answer."""

    batch: Batch  # B examples
    student: Outputs  # on all of them
    teachers: Mapping[str, Outputs]  # by term: what its teacher answered, on the term's rows
    losses: Mapping[str, Tensor]  # by term: the loss of each of its R rows, with gradient
    progress: float = 0.0  # share of the student's budget that is used
    costs: CostTracker = field(default_factory=CostTracker)  # is told what deciding and learning from it take


class Weighting(Protocol):
    """Picks rows before the teachers are asked, and weighs the losses afterwards; by itself, everything counts 1."""

    def reads(self) -> OutputRequest:
        """What it reads of the student, besides logits."""
        return OutputRequest()

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """R of each term that is not taken on all of `size` examples, or what to expect: for what a step costs."""
        return {}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """The places in the batch, [R] int64 in ascending order, of each term that is not taken on all of it.

        R may be 0: the term counts nothing then, and its teacher is not asked.
        """
        return {}

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights, [R], of each term whose rows do not all count 1; `rows` is what `pick` said."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on; empty if nothing is learned."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        return

    def learned(self) -> dict[str, Tensor]:
        """What is worth keeping of it beside the student."""
        return {}


@dataclass(frozen=True)
class PickedRows(Weighting):
    """Every knowledge type on the picked examples alone; the labels on all.

    Only what is picked is asked of a teacher.

    References:
        Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021, "data selection",
        https://arxiv.org/abs/2109.11295
    """

    choose: TopFraction

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """The same for each."""
        return {one.name: self.choose.count(size) for one in terms}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """The same for each."""
        assert student.logits is not None
        rows = self.choose(student.logits.detach(), batch.labels)
        return {one.name: rows for one in terms}


@dataclass(frozen=True)
class Together(Weighting):
    """Two at once: a term is taken on the examples that both pick, and weights multiply."""

    first: Weighting
    second: Weighting

    def reads(self) -> OutputRequest:
        """What either reads."""
        return self.first.reads() | self.second.reads()

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """As many as to expect if one pick knew nothing of the other."""
        one, other = self.first.counts(size, terms), self.second.counts(size, terms)
        return {name: round(one.get(name, size) * other.get(name, size) / max(size, 1)) for name in {**one, **other}}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """What both pick."""
        rows, others = dict(self.first.pick(student, batch, terms)), self.second.pick(student, batch, terms)
        common: dict[tuple[int, int], Tensor] = {}  # who shared rows shares them still, and so a teacher's pass
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
        """What either has learned and drawn."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of the same two."""
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])

    def learned(self) -> dict[str, Tensor]:
        """What both tell of what they learned."""
        return {**self.first.learned(), **self.second.learned()}


def together(weightings: Sequence[Weighting]) -> Weighting | None:
    """All of them at once; None if there is none."""
    return reduce(Together, weightings) if weightings else None
