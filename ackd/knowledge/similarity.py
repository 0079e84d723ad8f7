"""Relation knowledge between the examples of a batch: how similar their outputs are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.knowledge.masked import product, wide
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


class Similarity(Knowledge):
    """Mean squared error between the cosines of all pairs of examples of a batch.

        L_i = 1 / (B - 1) sum over j != i of (cos(z_S,i, z_S,j) - cos(z_T,i, z_T,j))^2

    z are the logits, or the embeddings of sentence encoders, [B, C]; their widths may differ. A batch of one example
    has loss 0.

    References:
        Tung, Mori, Similarity-Preserving Knowledge Distillation, 2019, https://arxiv.org/abs/1907.09682; it divides the
        rows of a batch's matrix of products by their lengths, where this takes cosines.

    Raises:
        InputError: for regression (C = 1), where a cosine is only a sign.
    """

    family = "relation"

    def __init__(self, student: ModelDims, teacher: ModelDims, *, name: str = "similarity") -> None:
        super().__init__()
        if 1 in (student.classes, teacher.classes):
            raise InputError(
                f"{name!r} compares directions, and the models answer with 1 number, which has only a sign: "
                "use 'rkd-distance' for regression"
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
        """FLOPs of the products: the student's forward and backward, the teacher's forward."""
        return 2.0 * size**2 * (3.0 * self.widths[0] + self.widths[1])


def _cosines(vectors: Tensor) -> Tensor:
    """The cosines between all rows of [B, C], [B, B]."""
    directions = F.normalize(wide(vectors), dim=-1)
    return product(directions, directions.mT)
