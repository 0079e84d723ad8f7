"""Attention knowledge: the attention between tokens in matched layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.knowledge.divergence import divergence
from ackd.knowledge.layers import LayerMap, student_layers, teacher_layers
from ackd.knowledge.masked import masked_mean, wide
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs


def shared_heads(student: ModelDims, teacher: ModelDims, name: str) -> int:
    """The number of attention heads, which both models must share.

    Raises:
        InputError: if the numbers differ.
    """
    if student.heads != teacher.heads:
        raise InputError(
            f"the student has {student.heads} attention heads and the teacher {teacher.heads}, and {name!r} compares "
            "them head by head: deselect it, or give the student as many heads ('qkv' compares any two models)"
        )
    return student.heads


class Attention(Knowledge):
    """Mean squared error between the attention scores of matched layers, before softmax and dropout.

        L_i = mean over pairs (l, g), heads a, valid queries q and keys k of (S_S[l] - S_T[g])^2_aqk

    For language models, a query's keys are the tokens up to its own.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020,
        https://arxiv.org/abs/1909.10351

    Raises:
        InputError: if student and teacher differ in their number of heads.
    """

    family = "attention"

    def __init__(self, student: ModelDims, teacher: ModelDims, pairs: LayerMap, *, name: str = "attention") -> None:
        super().__init__()
        self.heads = shared_heads(student, teacher, name)
        self.name = name
        self.pairs = pairs
        self.student_needs = OutputRequest(attention=student_layers(pairs))
        self.teacher_needs = OutputRequest(attention=teacher_layers(pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        errors = [
            F.mse_loss(wide(student.attention[s]), wide(teacher.attention[t]), reduction="none").sum(1)
            for s, t in self.pairs
        ]
        return masked_mean(torch.stack(errors).mean(0) / self.heads, batch.attended)

    def flops(self, size: int, length: int) -> float:
        """0, because the scores are counted with the models."""
        return 0.0


class AttentionKL(Knowledge):
    """Kullback-Leibler divergence between the attention of matched layers, for each query.

        L_i = mean over pairs (l, g), heads a, valid queries q of KL(P_T[g]_aq || P_S[l]_aq)

    P is the softmax of the scores over the valid keys, without dropout; for language models these are the tokens up to
    the query's own. The paper matches only the last layers.

    References:
        Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
        Transformers, 2020, https://arxiv.org/abs/2002.10957

    Raises:
        InputError: if student and teacher differ in their number of heads.
    """

    family = "attention"

    def __init__(self, student: ModelDims, teacher: ModelDims, pairs: LayerMap, *, name: str = "attention-kl") -> None:
        super().__init__()
        shared_heads(student, teacher, name)
        self.name = name
        self.pairs = pairs
        self.student_needs = OutputRequest(attention=student_layers(pairs))
        self.teacher_needs = OutputRequest(attention=teacher_layers(pairs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        scores = [(wide(student.attention[s]), wide(teacher.attention[t])) for s, t in self.pairs]
        seen = batch.attended if batch.language else None
        return torch.stack([divergence(ours, theirs, batch.mask, seen) for ours, theirs in scores]).mean(0)

    def flops(self, size: int, length: int) -> float:
        """0, because the scores are counted with the models."""
        return 0.0
