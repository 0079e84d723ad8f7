"""Who teaches, and how much each loss counts, by how unsure the student is.

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

SMALL = 0  # the place of the small teacher; whoever else teaches is large


@dataclass(frozen=True)
class UncertainHalf(Weighting):
    """The floor(B / 2) most uncertain examples to the small teacher alone, the others to the large one alone.

    Each is asked about its own half only, and each loss is a mean over its own half; of one example, all is the large
    teacher's.
    """

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """Half of it."""
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
    """w_i for the small teacher's losses, and 1 - w_i for the large one's: the less sure, the smaller the teacher.

        w_i = mean of u over the batch, or u_i itself

    Args:
        each: weigh every example by its own uncertainty, not by the batch's.
        attached: let gradient pass through the weights too, as in the published code.
    """

    each: bool = False
    attached: bool = False

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A teacher's share of each example: u of the small one, 1 - u of the other."""
        share = _uncertainty(answers, self.attached)
        if not self.each:
            share = share.mean().expand_as(share)
        return {one.name: _of(share if one.teacher == SMALL else 1 - share, rows.get(one.name)) for one in terms}


@dataclass(frozen=True)
class EqualTeachers(Weighting):
    """1 / teachers for every loss: what the dynamic rules are compared with.

    Args:
        teachers: how many there are.
    """

    teachers: int = 2

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """1 / teachers for each example and loss."""
        return {one.name: torch.full_like(answers.losses[one.name], 1 / self.teachers) for one in terms}


@dataclass(frozen=True)
class UncertainObjectives(Weighting):
    """1 - u_i for what compares outputs and u_i for all else: representations teach the unsure, outputs the sure.

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
    """Of the whole batch, u, [B]."""
    assert answers.student.logits is not None
    return uncertainty(answers.student.logits if attached else answers.student.logits.detach())


def _of(weights: Tensor, rows: Tensor | None) -> Tensor:
    return weights if rows is None else weights[rows]
