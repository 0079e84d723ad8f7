"""A student that learns: model, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ackd import models
from ackd.models import Model
from ackd.process_group import ALONE, Group
from ackd.reading import restore

WARMUP = 0.06  # share of the budget in which the learning rate rises


def learning_rate(step: int, steps: int, warmup: float = WARMUP) -> float:
    """The learning rate after so many of `steps` steps, as a share of its peak: a linear rise, then a linear fall."""
    rise = max(round(warmup * steps), 1)
    return min((step + 1) / rise, max(steps - step, 0) / max(steps - rise, 1), 1.0)


class Student:
    """A model with AdamW (no decay on biases and norms) and a linear warm-up and decay of the learning rate.

    Args:
        model: what learns.
        companions: other modules that learn with it and are no part of it, such as projections.
        steps: the budget, at whose end the learning rate reaches 0.
        lr: peak learning rate.
        weight_decay: of the matrices.
        warmup: share of the budget in which the learning rate rises.
        clip: largest gradient norm, over the model and its companions together.
        compiled: compile the model's layers; the first steps take long.
        group: the processes that train it, each from a part of the loss.
    """

    def __init__(
        self,
        model: Model,
        companions: Iterable[nn.Module] = (),
        *,
        steps: int,
        lr: float = 5e-5,
        weight_decay: float = 0.01,
        warmup: float = WARMUP,
        clip: float = 1.0,
        compiled: bool = False,
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.model = models.compiled(model) if compiled else models.capturing(model)
        self.companions = nn.ModuleList(companions)
        self.clip, self.steps = clip, steps
        self.parameters = [p for p in (*model.parameters(), *self.companions.parameters()) if p.requires_grad]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = AdamW(groups, lr=lr, fused=True)
        self.schedule = LambdaLR(self.optimizer, lambda step: learning_rate(step, steps, warmup))

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        return self.schedule.last_epoch / self.steps

    def learn(self, loss: Tensor) -> None:
        """Adds the gradient of `loss` to that of the step under way."""
        loss.backward()

    def update(self) -> Tensor:
        """Takes the optimizer step; the gradient's norm before clipping, 0-d, on the device."""
        self.group.average(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments and schedule, as copies that later steps leave alone."""
        state = {
            "model": self.model.state_dict(),
            "companions": self.companions.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        return {name: _copied(value) for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, which stays untouched.

        Raises:
            ValueError: if it is of another training.
        """
        self.model.load_state_dict(state["model"])
        self.companions.load_state_dict(state["companions"])
        restore(self.optimizer, state["optimizer"])
        restore(self.schedule, state["schedule"])


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
