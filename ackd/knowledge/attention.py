"""Attention knowledge: who looks at whom in matched layers."""

from __future__ import annotations

import torch
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge.layers import LayerMap
from ackd.knowledge.masked import masked_mean
from ackd.types import Batch, Knowledge, Needs, Outputs, Shape


class Attention(Knowledge):
    """Mean squared error between the attention scores before softmax, so before dropout, of matched layers.

        L_i = mean over pairs (l, g), heads a, valid queries q and keys k of (S_S[l] - S_T[g])^2_aqk

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020,
        https://arxiv.org/abs/1909.10351

    Raises:
        InputError: if student and teacher differ in their number of heads.
    """

    family = "attention"

    def __init__(self, student: Shape, teacher: Shape, pairs: LayerMap, *, name: str = "attention") -> None:
        super().__init__()
        if student.heads != teacher.heads:
            raise InputError(
                f"the student has {student.heads} attention heads and the teacher {teacher.heads}, and 'attention' "
                "compares them head by head: deselect it, or give the student as many heads"
            )
        self.name = name
        self.pairs = pairs
        self.widths = (student.width, teacher.width)
        self.student_needs = Needs(attention=frozenset(s for s, _ in pairs))
        self.teacher_needs = Needs(attention=frozenset(t for _, t in pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        valid = (batch.mask[:, :, None] * batch.mask[:, None, :])[:, None]
        errors = [masked_mean((student.attention[s] - teacher.attention[t]).square(), valid) for s, t in self.pairs]
        return torch.stack(errors).mean(0)

    def flops(self, size: int, length: int) -> float:
        """The scores once more: the student's forward and backward, the teacher's forward."""
        layers_student, layers_teacher = (len(n.attention) for n in (self.student_needs, self.teacher_needs))
        return 2.0 * size * length**2 * (3.0 * self.widths[0] * layers_student + self.widths[1] * layers_teacher)
