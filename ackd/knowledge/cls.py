"""Feature knowledge: the first token's vector of matched layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge.layers import LayerMap, student_layers, teacher_layers
from ackd.knowledge.masked import wide
from ackd.knowledge.projection import projected, projection, projection_flops
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class HiddenCls(Knowledge):
    """Mean squared error between the [CLS] vectors of matched layers, each divided by its length (patient KD).

        L_i = mean over pairs (l, g), entries j of (W h_S[l] / |W h_S[l]| - h_T[g] / |h_T[g]|)^2_j

    W is a linear projection, used only if the widths differ.

    References:
        Sun et al., Patient Knowledge Distillation for BERT Model Compression, 2019, https://arxiv.org/abs/1908.09355
    """

    family = "hidden"

    def __init__(self, student: ModelDims, teacher: ModelDims, pairs: LayerMap, *, name: str = "hidden-cls") -> None:
        super().__init__()
        self.name = name
        self.pairs = pairs
        self.projection = projection(student, teacher)
        self.student_needs = OutputRequest(cls=student_layers(pairs))
        self.teacher_needs = OutputRequest(cls=teacher_layers(pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        vectors = projected(self.projection, student.cls, (s for s, _ in self.pairs))
        errors = [
            F.mse_loss(F.normalize(vectors[s], dim=-1), F.normalize(wide(teacher.cls[t]), dim=-1), reduction="none")
            for s, t in self.pairs
        ]
        return torch.stack(errors).mean((0, -1))

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the projection, forward and backward."""
        return projection_flops(self.projection, size * len(self.student_needs.cls))
