"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16  # values of a 16-bit random number


def dropout(values: Tensor, p: float) -> Tensor:
    """Zeroes each entry with probability `p` and scales the others by `1 / (1 - p)`.

    On a CPU, most of dropout's time is spent on one random number per entry. Here 64 random bits give four of them, so
    `p` is rounded to a multiple of 1 / 65536. On other devices and in compiled code, this is torch's dropout. Under
    `torch.vmap` with `randomness="different"`, each student gets its own random numbers in both cases.
    """
    dropped = round(p * STEPS)
    if values.device.type != "cpu" or not 0 < dropped < STEPS or torch.compiler.is_compiling():
        return F.dropout(values, p)
    bits = torch.randint(-(2**63), 2**63 - 1, ((values.numel() + 3) // 4,), dtype=torch.int64).view(torch.int16)
    kept = bits[: values.numel()].view(values.shape) >= dropped - STEPS // 2
    return values * kept.to(values.dtype).mul_(STEPS / (STEPS - dropped))


class CheapDropout(nn.Dropout):
    """`nn.Dropout` that uses `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Applies dropout in training mode."""
        return dropout(input, self.p) if self.training and self.p > 0 else input
