"""Relation knowledge: products between the entries of one layer and those of the next."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.knowledge.layers import LayerMap, student_layers, teacher_layers
from ackd.knowledge.masked import product, wide
from ackd.knowledge.projection import projected, projection, projection_flops
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class Fsp(Knowledge):
    """Mean squared error between the flow matrices (FSP) of consecutive matched layers.

        G[k, l] = 1 / |m| H[k]^T (m * H[l]), [d, d], m the mask
        L_i = mean over consecutive pairs (k, g), (l, h), entries ij of (G_S[k, l] - G_T[g, h])^2_ij

    If the widths differ, a linear projection first maps the student's states to the teacher's width. Only the matrices
    of one step are needed at a time; they are B d^2 numbers for each model.

    References:
        Yim et al., A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
        Learning, 2017, https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html

    Raises:
        InputError: if the layer map has fewer than two pairs.
    """

    family = "relation"

    def __init__(self, student: ModelDims, teacher: ModelDims, pairs: LayerMap, *, name: str = "fsp") -> None:
        super().__init__()
        if len(pairs) < 2:
            named = ", ".join(f"{s}:{t}" for s, t in pairs)
            raise InputError(
                f"{name!r} compares the flow from one matched layer to the next, and the layer map has only {named}: "
                "name at least two pairs, as in 0:1,1:3, or deselect it"
            )
        self.name = name
        self.pairs = tuple(sorted(pairs))
        self.width = teacher.width
        self.projection = projection(student, teacher)
        self.student_needs = OutputRequest(hidden=student_layers(pairs))
        self.teacher_needs = OutputRequest(hidden=teacher_layers(pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        states = projected(self.projection, student.hidden, (s for s, _ in self.pairs))
        errors = [
            F.mse_loss(
                _flow(states[s], states[next_s], batch.mask),
                _flow(teacher.hidden[t], teacher.hidden[next_t], batch.mask),
                reduction="none",
            ).mean((1, 2))
            for (s, t), (next_s, next_t) in pairwise(self.pairs)
        ]
        return torch.stack(errors).mean(0)

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the matrices (backward only for the student's) and of the projection."""
        matrices = (3.0 + 1.0) * 2.0 * size * length * self.width**2 * (len(self.pairs) - 1)
        return matrices + projection_flops(self.projection, size * length * len(self.student_needs.hidden))


def _flow(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """The flow matrices [B, d, d] of two layers [B, n, d]."""
    second = wide(second)
    share = mask.to(second.dtype) / mask.sum(1, keepdim=True).clamp_min(1)  # weight of a token in the mean
    return product(first.mT, second * share[:, :, None])
