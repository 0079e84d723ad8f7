"""A student in training: model, optimizer and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ackd import models
from ackd.distributed.process_group import ALONE, Group
from ackd.files.reading import restore
from ackd.models import Model, run
from ackd.training.mixture import Mixture
from ackd.training.recipe import Recipe
from ackd.types import Batch, OutputRequest, Outputs

DEFAULT = Recipe()
T = TypeVar("T")


class Student:
    """A model with AdamW and a learning rate schedule; or N stacked models, with numbers of shape [N, ...].

    Args:
        model: the student's model.
        projections: modules outside the model that are trained with it, such as the projections of losses.
        steps: the budget.
        lr: peak learning rate.
        recipe: the other settings of the optimizer; gradients are clipped over model and projections together.
        compiled: whether to compile the model's layers; the first steps are then slow.
        group: the processes that train it; each computes a part of the loss.
    """

    shape: tuple[int, ...] = ()  # shape of a number per student: () for one, (N,) for several

    def __init__(
        self,
        model: Model,
        projections: Iterable[nn.Module] = (),
        *,
        steps: int,
        lr: float = 5e-5,
        recipe: Recipe = DEFAULT,
        compiled: bool = False,
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.model = models.compiled(model) if compiled else models.capturing(model)
        self.projections = nn.ModuleList(projections)
        self.clip, self.steps = recipe.gradient_clipping or math.inf, steps
        self.parameters = [p for p in (*model.parameters(), *self.projections.parameters()) if p.requires_grad]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = AdamW(groups, lr=lr, betas=recipe.adam_betas, fused=True)
        self.schedule = LambdaLR(self.optimizer, lambda step: recipe.rate(step, steps))

    @property
    def progress(self) -> float:
        """The used share of the budget."""
        return self.schedule.last_epoch / self.steps

    def forward(self, batch: Batch, needs: OutputRequest) -> Outputs:
        """The requested outputs of a batch."""
        return run(self.model, batch, needs)

    def each(self, one: Callable[..., T], outputs: Outputs, *others: Any) -> T:
        """Applies `one` (a projection or function) to each student's outputs and to the shared arguments."""
        return one(outputs, *others)

    @property
    def size(self) -> int:
        """The number of students."""
        return math.prod(self.shape)

    def meets(self, losses: Mapping[str, Tensor], mixture: Mixture) -> None:
        """Called with the terms of a step's loss before the backward pass; does nothing for a single student."""

    def update(self) -> Tensor:
        """Takes the optimizer step; returns the gradient's norm before clipping, 0-d, on the device."""
        self.group.average(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """Copies of weights, optimizer moments and schedule; later steps do not change them."""
        state = {
            "model": self.model.state_dict(),
            "companions": self.projections.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        return {name: _copied(value) for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`, which is not modified.

        Raises:
            ValueError: if it belongs to another training.
        """
        self.model.load_state_dict(state["model"])
        self.projections.load_state_dict(state["companions"])
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
