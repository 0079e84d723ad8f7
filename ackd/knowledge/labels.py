"""The gold labels, which every run learns from."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge.masked import wide


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy `-log softmax(z)_y` per example, or `(z - y)^2` for regression (C = 1).

    Args:
        logits: [B, C].
        labels: [B], int64 classes or float values.

    Returns:
        [B].
    """
    logits = wide(logits)
    if logits.shape[-1] == 1:
        return (logits[:, 0] - labels.to(logits.dtype)).square()
    return F.cross_entropy(logits, labels, reduction="none")


def assess(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How sure and how right a model is: the mean of `-sum_c p_c log p_c / log C`, and the share of right answers.

    Args:
        logits: [B, C].
        labels: [B], int64 classes or float values.

    Returns:
        Two 0-d tensors without gradient; both 0 for regression (C = 1).
    """
    logits = wide(logits.detach())
    classes = logits.shape[-1]
    if classes == 1:
        return logits.new_zeros(()), logits.new_zeros(())
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean() / math.log(classes), (logits.argmax(-1) == labels).float().mean()
