"""Checks and sums the numbers that a training loop reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ackd.distributed.process_group import Group
from ackd.errors import InputError

MEASURED = ("grad_norm", "uncertainty", "accuracy", "flops", "flops_all")


@dataclass
class Sums:
    """Sums over the calls of a phase.

    Args:
        calls: number of calls.
        losses: sum of each loss by name, on the device of the losses.
        reported: sums of the reported numbers of `MEASURED`.
        learning_rate: learning rate in the first call, as a share of its peak.
    """

    calls: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0

    def add(self, losses: Mapping[str, Tensor], reported: Mapping[str, float]) -> None:
        """Adds a call, without waiting for the device."""
        for name, loss in losses.items():
            value = loss.detach().reshape(()).double()
            self.losses[name] = self.losses[name] + value if name in self.losses else value
        for name, number in reported.items():
            self.reported[name] = self.reported.get(name, 0.0) + float(number)
        self.calls += 1

    def means(self, group: Group) -> dict[str, float]:
        """The means over the calls of all processes, read from the device once; 0 for numbers that are not reported."""
        reported = torch.tensor([self.reported.get(name, 0.0) for name in MEASURED], dtype=torch.float64)
        names = sorted(self.losses)  # the same order in every process
        losses = torch.stack([self.losses[name] for name in names]).cpu() if names else reported[:0]
        means, _ = group.mean(torch.cat([losses, reported]) / self.calls, self.calls)
        return dict(zip((*names, *MEASURED), means.tolist(), strict=True))


def check_losses(losses: Mapping[str, Tensor], weights: Mapping[str, float], steps_done: int) -> None:
    """Checks that all losses can be weighed.

    Args:
        losses: the losses by name.
        weights: the weights of all losses by name.
        steps_done: optimizer steps before this one.

    Raises:
        InputError: if a loss is missing, unknown, not a scalar, or, on a CPU, negative or not finite.
    """
    if unknown := losses.keys() - weights.keys():
        raise InputError(
            f"the loss {min(unknown)!r} is new: the losses are {', '.join(weights)}; name all of them in the first "
            "call, or with losses="
        )
    if missing := {name for name, weight in weights.items() if weight > 0} - losses.keys():
        raise InputError(
            f"the loss {min(missing)!r} has the weight {weights[min(missing)]:g} but is missing: compute all losses in "
            "balancer.wanted"
        )
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = f"has the shape {list(loss.shape)}" if isinstance(loss, Tensor) else ""
            what = shape or f"is a {type(loss).__name__}"
            raise InputError(f"the loss {name!r} {what}: give the mean over the batch, as a tensor")
        if loss.device.type == "cpu":  # checking a loss on a GPU would synchronise it
            check_value(name, float(loss.detach()), steps_done)


def check_value(name: str, value: float, steps_done: int) -> None:
    """Checks the value of a loss.

    Raises:
        InputError: if it is negative or not finite.
    """
    if not 0 <= value < float("inf"):
        what = "negative" if value < 0 else "not finite"
        hint = "policies use the logarithm, so losses must be at least 0" if value < 0 else "it cannot be weighed"
        raise InputError(f"the loss {name!r} is {what} ({value:g}) in step {steps_done + 1}: {hint}")
