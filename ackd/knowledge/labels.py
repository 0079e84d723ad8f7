"""Losses and measures on the gold labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge.masked import masked_mean, wide
from ackd.types import NO_TOKEN


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy `-log softmax(z)_y` per example, or `(z - y)^2` for regression (C = 1).

    For embeddings it is `1/d sum_j (z - y)^2_j`. For a language model it is the mean over an example's tokens with a
    next token: `-1/n sum_t log p(y_t)`.

    Args:
        logits: [B, C], or [B, n, V] for a language model.
        labels: [B], int64 classes or float values; [B, C], float embeddings; or [B, n], the next token of each token,
            `NO_TOKEN` for none.

    Returns:
        [B].
    """
    if logits.dim() == 3:
        return masked_mean(token_loss(logits, labels), labels != NO_TOKEN)
    logits = wide(logits)
    if labels.dim() == 2:
        return F.mse_loss(logits, labels.to(logits.dtype), reduction="none").mean(-1)
    if logits.shape[-1] == 1:
        return (logits[:, 0] - labels.to(logits.dtype)).square()
    return F.cross_entropy(logits, labels, reduction="none")


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each next token, [B, n] from [B, n, V] and [B, n]; 0 without a next token."""
    return F.cross_entropy(wide(logits).flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def token_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss, the correctly predicted tokens and the tokens of each text, [B, 3].

    Args:
        logits: [B, n, V].
        labels: [B, n], the next token of each token, `NO_TOKEN` for none.
    """
    right = (logits.argmax(-1) == labels).sum(1)
    sums = token_loss(logits, labels).sum(1)
    return torch.stack([sums, right.to(sums.dtype), (labels != NO_TOKEN).sum(1).to(sums.dtype)], 1)


def assess(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean uncertainty `-sum_c p_c log p_c / log C` of a model, and its share of correct predictions.

    Args:
        logits: [B, C], or [B, n, V] for a language model, with means over all tokens that have a next token.
        labels: [B], int64 classes or float values; or [B, n], the next token of each token.

    Returns:
        Two 0-d tensors without gradient; both 0 if the labels are not classes.
    """
    logits = wide(logits.detach())
    classes = logits.shape[-1]
    if classes == 1 or labels.is_floating_point():
        return logits.new_zeros(()), logits.new_zeros(())
    log_p = logits.log_softmax(-1)
    if logits.dim() == 3:
        followed = labels != NO_TOKEN
        count = followed.sum().clamp_min(1)
        entropies = -(log_p.exp() * log_p).sum(-1).where(followed, 0.0)
        return entropies.sum() / count / math.log(classes), (logits.argmax(-1) == labels).sum() / count
    return -(log_p.exp() * log_p).sum(-1).mean() / math.log(classes), (logits.argmax(-1) == labels).float().mean()
