"""Response knowledge on a part of a text: the tokens whose next token the student or the teacher is least sure of."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ackd.errors import InputError, unknown
from ackd.knowledge.response import Response

Model = Literal["student", "teacher"]


class TopTokens(Response):
    """Another loss between logits, on the tokens of each text with the largest entropy.

        L_i = mean of l_it over the ceil(share * n_i) of the n_i tokens t with the largest H_t = -sum_v p_tv log p_tv

    p is the softmax of the logits of the student or the teacher, without gradient. An example of a classifier has one
    answer, which always counts.

    With `ReverseKL`, a share of 1/2 and the student's entropy this is TIP's rule; `ReverseKL` on all tokens together
    with `Logits` where the teacher's entropy is large is EOPD's, which has a threshold in the place of a share. Both
    papers learn from texts that the student writes; here texts are given.

    Args:
        loss: the loss, at its temperature.
        share: above 0 and at most 1.
        by: whose entropy.
        name: its name in selections.

    References:
        Xu et al., TIP: Token Importance in On-Policy Distillation, 2026, https://arxiv.org/abs/2604.14084
        Jin et al., Entropy-Aware On-Policy Distillation of Language Models (EOPD), 2026,
        https://arxiv.org/abs/2603.07079

    Raises:
        InputError: if the share is out of range, or `by` is unknown.
    """

    def __init__(self, loss: Response, *, share: float = 0.5, by: Model = "student", name: str | None = None) -> None:
        super().__init__(name or f"{loss.name}-uncertain-{by}")
        if not 0 < share <= 1:
            raise InputError(f"the share of the tokens is {share}: give a number above 0, at most 1")
        if by not in get_args(Model):
            raise unknown("model to take the entropy of", by, get_args(Model))
        self.loss, self.share, self.by = loss, share, by

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        return self.loss.compare(student, teacher, labels)

    def counted(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """`[B, n]`, the tokens of largest entropy among those with a next token."""
        told = super().counted(student, teacher, labels)
        log_p = (student if self.by == "student" else teacher).detach().log_softmax(-1)
        entropies = -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
        order = entropies.masked_fill(~told, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        most = (self.share * told.sum(-1, keepdim=True)).ceil()
        return told & (order.argsort(-1) < most)
