"""Response knowledge of language models: the teacher's distribution of every next token."""

from __future__ import annotations

import torch
from torch import Tensor

from ackd.knowledge.response import Response


class Tokens(Response):
    """Cross-entropy of a causal language model to the teacher's distribution, mean over next tokens.

        L_i = -1/n sum_t sum_v p_tv log q_tv,  p = softmax(z_T),  q = softmax(z_S)

    It uses the whole vocabulary and temperature 1. Its minimum is the mean entropy of p, not 0.

    References:
        Gu et al., MiniPLM: Knowledge Distillation for Pre-Training Language Models, 2025,
        https://arxiv.org/abs/2410.17215, the baseline "Vanilla KD"
    """

    def __init__(self, *, name: str = "tokens") -> None:
        super().__init__(name)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each token, `[B, n]` from two [B, n, V]."""
        # a token of student probability 0 costs a large number, or 0 if its teacher probability is 0 too
        log_q = torch.log_softmax(student, -1).clamp_min(torch.finfo(student.dtype).min)
        return -(torch.softmax(teacher, -1) * log_q).sum(-1)
