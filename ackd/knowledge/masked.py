"""Helpers that exclude padding from losses and avoid half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """`sum(values * mask) / sum(mask)` over all but the first dimension: [B, ...] -> [B]; 0 if nothing is valid.

    `mask` has the shape of `values`. Masked values are left out, not multiplied by 0, so they may be infinite.
    """
    valid = mask.flatten(1).bool()
    return values.flatten(1).where(valid, 0.0).sum(1) / valid.sum(1).clamp_min(1)


def wide(values: Tensor) -> Tensor:
    """The same values, in float32 if they are in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in float32 or wider, also where autocast would compute it in half precision."""
    with torch.autocast(left.device.type, enabled=False):
        return wide(left) @ wide(right)
