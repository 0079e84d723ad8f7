"""Feature knowledge: the hidden states of matched layers, for each token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge.layers import LayerMap, student_layers, teacher_layers
from ackd.knowledge.masked import masked_mean, wide
from ackd.knowledge.projection import projected, projection, projection_flops
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class Hidden(Knowledge):
    """Mean squared error between the hidden states of matched layers, over the tokens that are not padding.

        L_i = mean over pairs (l, g), tokens t, entries j of (W H_S[l] - H_T[g])^2_tj

    If the widths differ, a linear projection W, shared by all pairs, maps the student's states to the teacher's width.
    At equal widths there is a projection only with `projected`. A pair may name the embeddings, layer -1. With
    `normalise`, each token's W H_S and H_T are first divided by their lengths, so that only directions are compared.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020,
        https://arxiv.org/abs/1909.10351
        Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021, for `normalise`,
        https://arxiv.org/abs/2109.11295
    """

    family = "hidden"

    def __init__(
        self,
        student: ModelDims,
        teacher: ModelDims,
        pairs: LayerMap,
        *,
        normalise: bool = False,
        projected: bool = False,
        name: str = "hidden",
    ) -> None:
        super().__init__()
        self.name = name
        self.pairs, self.normalise = pairs, normalise
        self.width = teacher.width
        self.projection = projection(student, teacher, always=projected)
        self.student_needs = OutputRequest(hidden=student_layers(pairs))
        self.teacher_needs = OutputRequest(hidden=teacher_layers(pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        states = projected(self.projection, student.hidden, (s for s, _ in self.pairs))
        matched = [(states[s], wide(teacher.hidden[t])) for s, t in self.pairs]
        if self.normalise:
            matched = [(F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)) for ours, theirs in matched]
        # sum over a token's entries before the mask, divide afterwards: fewer passes over [B, n, d]
        errors = [F.mse_loss(ours, theirs, reduction="none").sum(-1) for ours, theirs in matched]
        return masked_mean(torch.stack(errors).mean(0) / self.width, batch.mask)

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the projection, forward and backward."""
        return projection_flops(self.projection, size * length * len(self.student_needs.hidden))
