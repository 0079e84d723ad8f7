"""Feature knowledge: the hidden states of matched layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ackd.errors import InputError
from ackd.knowledge.layers import LayerMap
from ackd.knowledge.masked import masked_mean
from ackd.types import Batch, Knowledge, Needs, Outputs, Shape


class Hidden(Knowledge):
    """Mean squared error between the hidden states of matched layers, over the tokens that are not padding.

        L_i = mean over pairs (l, g), tokens t, entries j of (W H_S[l] - H_T[g])^2_tj

    Where the widths differ, one linear projection W, shared by all pairs, takes the student's states to the
    teacher's width; where they are equal there is none.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020,
        https://arxiv.org/abs/1909.10351

    Raises:
        InputError: if the widths differ and `project` is False.
    """

    family = "hidden"

    def __init__(
        self, student: Shape, teacher: Shape, pairs: LayerMap, *, project: bool = True, name: str = "hidden"
    ) -> None:
        super().__init__()
        self.name = name
        self.pairs = pairs
        self.widths = (student.width, teacher.width)
        self.projection: nn.Module = nn.Identity()
        if student.width != teacher.width:
            if not project:
                raise InputError(
                    f"the hidden states of student and teacher differ in width ({student.width} and {teacher.width}): "
                    "allow a projection, or deselect 'hidden'"
                )
            self.projection = nn.Linear(student.width, teacher.width)
        self.student_needs = Needs(hidden=frozenset(s for s, _ in pairs))
        self.teacher_needs = Needs(hidden=frozenset(t for _, t in pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        mask = batch.mask[:, :, None]
        errors = [
            masked_mean((self.projection(student.hidden[s]) - teacher.hidden[t]).square(), mask) for s, t in self.pairs
        ]
        return torch.stack(errors).mean(0)

    def flops(self, size: int, length: int) -> float:
        """The projection, forward and backward."""
        if isinstance(self.projection, nn.Identity):
            return 0.0
        return 3.0 * 2.0 * size * length * self.widths[0] * self.widths[1] * len(self.pairs)
