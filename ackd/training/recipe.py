"""Optimizer settings and learning rate schedule of a student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ackd.config import STEPS, Schedule
from ackd.errors import InputError, unknown

FLOOR = 0.1  # final learning rate of a cosine schedule, as a share of the peak


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW's settings and the learning rate schedule after a linear warm-up.

    Args:
        warmup: share of the budget in which the learning rate rises.
        schedule: after the warm-up: a `linear` fall to 0, half a `cosine` to a tenth of the peak, or a `constant` rate.
        weight_decay: of the matrices; biases and norms have none.
        adam_betas: AdamW's decay rates of the running means of gradients and squared gradients.
        gradient_clipping: largest norm of a step's gradient; 0 disables clipping.

    Raises:
        InputError: if a number is out of range or the schedule is unknown.

    References:
        Loshchilov, Hutter, Decoupled Weight Decay Regularization, 2019, https://arxiv.org/abs/1711.05101
    """

    warmup: float = 0.06
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    gradient_clipping: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise unknown("schedule", self.schedule, get_args(Schedule))
        if not 0 <= self.warmup <= 1:
            raise InputError(f"the warm-up is {self.warmup}: give a share of the steps, 0 to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"the weight decay is {self.weight_decay}: give 0 or more")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise InputError(f"Adam's betas are {self.adam_betas}: give two numbers from 0 to below 1")
        if not self.gradient_clipping >= 0:
            raise InputError(f"gradients are clipped at {self.gradient_clipping}: give a norm above 0, or 0 for none")
        for name in ("warmup", "weight_decay", "gradient_clipping"):  # 0 and 0.0 differ in a checkpoint
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "adam_betas", tuple(map(float, self.adam_betas)))

    @classmethod
    def of(cls, *told: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from mappings of fields; the first value that is not None applies, else the default.

        Example:
            Recipe.of({"warmup": None, "weight_decay": 0.1}, published)

        Raises:
            InputError: as for any recipe.
        """
        values: dict[str, Any] = {}
        for one in told:
            values = {name: value for name, value in one.items() if value is not None} | values
        return cls(**values)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate after `step` of `steps` steps, as a share of its peak."""
        rise = max(round(self.warmup * steps), 1)
        left = max(steps - step, 0) / max(steps - rise, 1)  # remaining share of the steps after the warm-up
        risen = min((step + 1) / rise, 1.0)
        if self.schedule == "constant":
            return risen
        if self.schedule == "cosine":
            return min(risen, FLOOR + (1 - FLOOR) * 0.5 * (1 - math.cos(math.pi * min(left, 1.0))))
        return min(risen, left)


def check_length(steps: int | None, epochs: float | None) -> None:
    """Checks the length of a training.

    Raises:
        InputError: if both are given, or one is not above 0.
    """
    if steps is not None and epochs is not None:
        raise InputError(f"steps ({steps}) and epochs ({epochs:g}) both say how long to train: name one of them")
    if steps is not None and steps < 1:
        raise InputError(f"the steps must be above 0, got {steps}")
    if epochs is not None and not 0 < epochs < math.inf:
        raise InputError(f"the number of epochs must be above 0, got {epochs}")


def length(steps: int | None, epochs: float | None, *, examples: int, batch: int) -> int:
    """The number of optimizer steps: `steps`, or max(round(E N / B), 1), or `STEPS` if neither is given.

    Args:
        steps: optimizer steps, or None.
        epochs: E, passes over the training data, or None.
        examples: N, number of training examples.
        batch: B, examples of an optimizer step.

    Raises:
        InputError: see `check_length`.
    """
    check_length(steps, epochs)
    if epochs is not None:
        return max(round(epochs * examples / max(batch, 1)), 1)
    return STEPS if steps is None else steps
