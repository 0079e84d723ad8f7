"""The one masked mean."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """`sum(values * mask) / sum(mask)` over all but the first dimension: [B, ...] -> [B]; 0 where nothing is valid.

    `mask` is broadcast over `values`, so that it counts each of them.
    """
    weights = mask.to(values.dtype).expand_as(values).flatten(1)
    return (values.flatten(1) * weights).sum(1) / weights.sum(1).clamp_min(1.0)
