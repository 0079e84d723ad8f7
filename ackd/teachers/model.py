"""A frozen model as teacher."""

from __future__ import annotations

import torch

from ackd.models import Model, run, shape_of
from ackd.types import Batch, Needs, Outputs, Shape


class ModelTeacher:
    """A model that answers in eval mode and without gradient, outside the student's state dict and optimizer."""

    def __init__(self, model: Model) -> None:
        self.model = model.eval().requires_grad_(False)
        self._shape = shape_of(model)

    @property
    def shape(self) -> Shape:
        """The model's sizes."""
        return self._shape

    def __call__(self, batch: Batch, needs: Needs) -> Outputs:
        """The outputs asked for, without gradient."""
        # not inference_mode: its tensors cannot be saved for the student's backward pass
        with torch.no_grad():
            return run(self.model, batch, needs)
