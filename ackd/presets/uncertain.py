"""Selects teachers and weights losses by the student's uncertainty.

    u_i = -sum_c p_ic log p_ic / log C,  p_i = softmax(z_S(x_i)) of the current forward pass

References:
    Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
    https://arxiv.org/abs/2109.11295
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ackd.types import Batch, Knowledge, Outputs
from ackd.weighting.scores import entropy, uncertainty
from ackd.weighting.weighting import Answers, Weighting

SMALL = 0  # index of the small teacher; all others are large


@dataclass(frozen=True)
class UncertainHalf(Weighting):
    """The floor(B / 2) most uncertain examples go only to the small teacher, the others only to the large.

    Each teacher runs only on its own half, and each loss is a mean over its own half. A single example goes to the
    large teacher.
    """

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """Half of the batch for each teacher."""
        return {one.name: size // 2 if one.teacher == SMALL else size - size // 2 for one in terms}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """Each teacher's half."""
        assert student.logits is not None
        order = entropy(student.logits.detach()).argsort(descending=True, stable=True)
        half = len(order) // 2
        small, large = order[:half].sort().values, order[half:].sort().values
        return {one.name: small if one.teacher == SMALL else large for one in terms}


@dataclass(frozen=True)
class UncertainTeachers(Weighting):
    """w_i for the small teacher's losses, 1 - w_i for the large one's: uncertainty favours the small one.

        w_i = mean of u over the batch, or u_i itself

    Args:
        each: weigh every example by its own uncertainty, not by the batch's.
        attached: let gradient pass through the weights too, as in the published code.
    """

    each: bool = False
    attached: bool = False

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A teacher's share of each example: u for the small teacher, 1 - u for the other."""
        share = _uncertainty(answers, self.attached)
        if not self.each:
            share = share.mean().expand_as(share)
        return {one.name: _of(share if one.teacher == SMALL else 1 - share, rows.get(one.name)) for one in terms}


@dataclass(frozen=True)
class EqualTeachers(Weighting):
    """1 / teachers for every loss: the control of the dynamic rules.

    Args:
        teachers: number of teachers.
    """

    teachers: int = 2

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """1 / teachers for each example and loss."""
        return {one.name: torch.full_like(answers.losses[one.name], 1 / self.teachers) for one in terms}


@dataclass(frozen=True)
class UncertainObjectives(Weighting):
    """1 - u_i for losses on logits, u_i for all others: uncertain students learn from representations.

    Args:
        reverse: exchange the two.
        attached: let gradient pass through the weights too, as in the published code.
    """

    reverse: bool = False
    attached: bool = False

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """1 - u or u for each example, by the family of the loss."""
        u = _uncertainty(answers, self.attached)
        return {
            one.name: _of(1 - u if (one.family == "logits") != self.reverse else u, rows.get(one.name)) for one in terms
        }


def _uncertainty(answers: Answers, attached: bool) -> Tensor:
    """The uncertainty u of the whole batch, [B]."""
    assert answers.student.logits is not None
    return uncertainty(answers.student.logits if attached else answers.student.logits.detach())


def _of(weights: Tensor, rows: Tensor | None) -> Tensor:
    return weights if rows is None else weights[rows]
