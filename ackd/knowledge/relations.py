"""Relation knowledge: products of the queries, keys or values between the tokens of a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge.divergence import divergence
from ackd.knowledge.layers import LayerMap, student_layers, teacher_layers
from ackd.knowledge.masked import product, wide
from ackd.types import Batch, Knowledge, ModelDims, OutputKey, OutputRequest, Outputs

QKV = ("queries", "keys", "values")
MOST_HEADS = 48  # the paper's number for teachers of base size


class Relations(Knowledge):
    """Kullback-Leibler divergence between the token relations of matched layers.

        R^X_a = softmax(X_a X_a^T / sqrt(d / A)) over the valid tokens, X_a the a-th of A slices of X, [n, d / A]
        L_i = sum over X in `of` of mean over pairs (l, g), heads a, valid tokens t of KL(R^X_T[g]_at || R^X_S[l]_at)

    MiniLM uses `of=("values",)` with the models' own attention heads. The default is MiniLMv2's: queries, keys and
    values, with heads that are independent of the models' own, so that neither heads nor widths need to be equal.
    Both papers match one layer of each model.

    Args:
        student: the student's sizes.
        teacher: the teacher's sizes.
        pairs: the layers to compare.
        of: which of queries, keys and values.
        heads: A; the largest common divisor of both widths up to 48 if not given.
        name: its name in selections.

    References:
        Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
        Transformers, 2020, https://arxiv.org/abs/2002.10957
        Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers, 2021, https://arxiv.org/abs/2012.15828

    Raises:
        InputError: if `heads` does not divide both widths.
    """

    family = "relation"

    def __init__(
        self,
        student: ModelDims,
        teacher: ModelDims,
        pairs: LayerMap,
        *,
        of: Sequence[str] = QKV,
        heads: int | None = None,
        name: str = "qkv",
    ) -> None:
        super().__init__()
        common = math.gcd(student.width, teacher.width)
        possible = [number for number in range(1, common + 1) if common % number == 0]
        if heads is not None and heads not in possible:
            raise InputError(
                f"{heads} relation heads do not divide both the student's width {student.width} and the teacher's "
                f"{teacher.width}: choose one of {', '.join(map(str, possible))}"
            )
        self.name = name
        self.pairs = pairs
        self.of = tuple(of)
        self.heads = heads or max(number for number in possible if number <= MOST_HEADS)
        self.widths = (student.width, teacher.width)
        self.student_needs = OutputRequest.of(OutputKey(kind, s) for kind in self.of for s, _ in pairs)
        self.teacher_needs = OutputRequest.of(OutputKey(kind, t) for kind in self.of for _, t in pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        losses = []
        for kind in self.of:
            ours, theirs = getattr(student, kind), getattr(teacher, kind)
            scores_student = {s: self._scores(ours[s], batch.mask) for s in student_layers(self.pairs)}
            scores_teacher = {t: self._scores(theirs[t], batch.mask) for t in teacher_layers(self.pairs)}
            each = [divergence(scores_student[s], scores_teacher[t], batch.mask) for s, t in self.pairs]
            losses.append(torch.stack(each).mean(0))
        return torch.stack(losses).sum(0)

    def _scores(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """The scaled products of all tokens, [B, n, d] -> [B, A, n, n]."""
        # padding becomes 0 first, because its products could overflow
        clean = wide(vectors).where(mask[:, :, None].bool(), 0.0)
        heads = clean.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return product(heads, heads.mT) / math.sqrt(heads.shape[-1])

    def flops(self, size: int, length: int) -> float:
        """FLOPs of the products: the student's forward and backward, the teacher's forward."""
        layers = (len(student_layers(self.pairs)), len(teacher_layers(self.pairs)))
        width = 3.0 * self.widths[0] * layers[0] + self.widths[1] * layers[1]
        return 2.0 * size * length**2 * width * len(self.of)
