"""Precision of computations: float32, or bfloat16 where that is safe."""

from __future__ import annotations

import torch


def computing(precision: str, device: torch.device) -> torch.autocast:
    """A context in which matrix products use `precision`; weights, optimizer and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
