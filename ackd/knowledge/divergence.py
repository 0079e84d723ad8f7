"""Kullback-Leibler divergences between distributions, and between tables of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from ackd.knowledge.masked import masked_mean


def kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """`KL(p || q) = sum p (log p - log q)` over the last dimension."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)  # torch's own kl_div has no batching rule for vmap


def divergence(student: Tensor, teacher: Tensor, mask: Tensor, seen: Tensor | None = None) -> Tensor:
    """`KL(softmax(teacher) || softmax(student))` over the valid columns, mean over heads and valid rows.

    Args:
        student: scores, [B, A, n, n].
        teacher: scores, [B, A, n, n].
        mask: [B, n], 1 for a token and 0 for padding.
        seen: [B, n, n] bool, the valid columns of each row, if they are fewer than those of `mask`.

    Returns:
        [B].
    """
    padding = ~(mask[:, None, None, :].bool() if seen is None else seen[:, None])

    def log_softmax(scores: Tensor) -> Tensor:
        # the lowest finite number: its softmax is exactly 0, and 0 times it is 0; 0 times infinity would be NaN
        return torch.log_softmax(scores.masked_fill(padding, torch.finfo(scores.dtype).min), -1)

    return masked_mean(kl(log_softmax(student), log_softmax(teacher)).mean(1), mask)
