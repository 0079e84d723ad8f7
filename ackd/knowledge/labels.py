"""The gold labels, which every run learns from."""

from __future__ import annotations

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
