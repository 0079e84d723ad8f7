"""Relation knowledge between the examples of a batch. No other losses compare examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge.masked import product, wide
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class RkdDistance(Knowledge):
    """Smooth L1 between the distances of examples, relative to the batch's mean distance.

        D_ij = |f_i - f_j| / mean of the positive |f_k - f_l|,  L_i = mean over j of smoothL1(D_S_ij, D_T_ij)

    f is the last layer's [CLS] vector, [B, d]; the widths may differ. A batch of one example has loss 0.

    References:
        Park et al., Relational Knowledge Distillation, 2019, https://arxiv.org/abs/1904.05068
    """

    family = "relation"

    def __init__(self, student: ModelDims, teacher: ModelDims, *, name: str = "rkd-distance") -> None:
        super().__init__()
        self.name = name
        self.layers = (student.layers - 1, teacher.layers - 1)
        self.student_needs, self.teacher_needs = (OutputRequest(cls=frozenset({layer})) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        ours = _distances(wide(student.cls[self.layers[0]]))
        theirs = _distances(wide(teacher.cls[self.layers[1]]))
        return F.smooth_l1_loss(ours, theirs, reduction="none").mean(1)

    def flops(self, size: int, length: int) -> float:
        """0, because there is no matrix product."""
        return 0.0


class RkdAngle(Knowledge):
    """Smooth L1 between the cosines of the angles between any three examples.

        A_ijk = cos(f_j - f_i, f_k - f_i),  L_i = mean over j, k of smoothL1(A_S_ijk, A_T_ijk)

    f is the last layer's [CLS] vector, [B, d]; the widths may differ. An angle with a side of length 0 has cosine 0,
    so a batch of one example has loss 0. Takes B^3 numbers.

    References:
        Park et al., Relational Knowledge Distillation, 2019, https://arxiv.org/abs/1904.05068
    """

    family = "relation"

    def __init__(self, student: ModelDims, teacher: ModelDims, *, name: str = "rkd-angle") -> None:
        super().__init__()
        self.name = name
        self.layers = (student.layers - 1, teacher.layers - 1)
        self.widths = (student.width, teacher.width)
        self.student_needs, self.teacher_needs = (OutputRequest(cls=frozenset({layer})) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        ours = _angles(wide(student.cls[self.layers[0]]))
        theirs = _angles(wide(teacher.cls[self.layers[1]]))
        return F.smooth_l1_loss(ours, theirs, reduction="none").mean((1, 2))

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the products of sides: the student's forward and backward, the teacher's forward."""
        return 2.0 * size**3 * (3.0 * self.widths[0] + self.widths[1])


def _sides(features: Tensor) -> tuple[Tensor, Tensor]:
    """`f_j - f_i` at [i, j], [B, B, d], and their lengths, [B, B]; at length 0 the gradient is 0, not NaN."""
    sides = features[None] - features[:, None]
    return sides, torch.linalg.vector_norm(sides, dim=-1)


def _distances(features: Tensor) -> Tensor:
    """The distances relative to the mean of the positive ones, [B, d] -> [B, B]."""
    _, lengths = _sides(features)
    mean = lengths.sum() / (lengths > 0).sum().clamp_min(1)
    return lengths / mean.where(mean > 0, 1.0)


def _angles(features: Tensor) -> Tensor:
    """The cosine at vertex i between the sides to j and to k at [i, j, k], [B, d] -> [B, B, B]."""
    sides, lengths = _sides(features)
    lengths = lengths.where(lengths > 0, torch.inf)[:, :, None]  # a side of length 0 stays 0, and so does its gradient
    directions = sides / lengths
    return product(directions, directions.mT)
