"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16  # what a mask's 16 bits can tell apart


def dropout(values: Tensor, p: float) -> Tensor:
    """Zeroes each entry with probability `p` and scales the others by `1 / (1 - p)`.

    On a CPU most of dropout's time goes into one random number an entry; here 64 random bits make four of them, so `p`
    is rounded to 1 / 65536 there. Elsewhere, and in compiled code, this is torch's own. Either way `torch.vmap` with
    `randomness="different"` draws anew for each.
    """
    dropped = round(p * STEPS)
    if values.device.type != "cpu" or not 0 < dropped < STEPS or torch.compiler.is_compiling():
        return F.dropout(values, p)
    bits = torch.randint(-(2**63), 2**63 - 1, ((values.numel() + 3) // 4,), dtype=torch.int64).view(torch.int16)
    kept = bits[: values.numel()].view(values.shape) >= dropped - STEPS // 2
    return values * kept.to(values.dtype).mul_(STEPS / (STEPS - dropped))


class CheapDropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """The values, some of them zeroed while training."""
        return dropout(input, self.p) if self.training and self.p > 0 else input
