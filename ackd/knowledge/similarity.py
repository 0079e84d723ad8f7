"""Relation knowledge: the similarities between the outputs of a batch's examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.knowledge.masked import product, wide
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class Similarity(Knowledge):
    """Mean squared error between the student's and the teacher's cosines of all pairs of examples in a batch.

        L_i = 1 / (B - 1) sum over j != i of (cos(z_S,i, z_S,j) - cos(z_T,i, z_T,j))^2

    z are the logits, or the embeddings of sentence encoders, [B, C]; their widths may differ. A batch of one example
    has loss 0.

    References:
        Tung, Mori, Similarity-Preserving Knowledge Distillation, 2019, https://arxiv.org/abs/1907.09682; it normalises
        the rows of a batch's product matrix, instead of using cosines.

    Raises:
        InputError: for regression (C = 1), because the cosine of two numbers is only a sign.
    """

    family = "relation"

    def __init__(self, student: ModelDims, teacher: ModelDims, *, name: str = "similarity") -> None:
        super().__init__()
        if 1 in (student.classes, teacher.classes):
            raise InputError(
                f"{name!r} compares directions, and one of the models has a single output, which has only a sign: use "
                "'rkd-distance' for regression"
            )
        self.name = name
        self.widths = (student.classes, teacher.classes)
        self.student_needs = self.teacher_needs = OutputRequest(logits=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        assert student.logits is not None
        assert teacher.logits is not None
        errors = (_cosines(student.logits) - _cosines(teacher.logits)).square()
        others = ~torch.eye(len(errors), dtype=torch.bool, device=errors.device)
        return errors.where(others, 0.0).sum(1) / max(len(errors) - 1, 1)

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the products: forward and backward for the student, forward for the teacher."""
        return 2.0 * size**2 * (3.0 * self.widths[0] + self.widths[1])


def _cosines(vectors: Tensor) -> Tensor:
    """The cosines [B, B] of all pairs of rows of [B, C]."""
    directions = F.normalize(wide(vectors), dim=-1)
    return product(directions, directions.mT)
