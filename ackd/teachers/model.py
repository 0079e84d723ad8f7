"""A frozen model as a teacher."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property

import torch

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.models import Meter, Model, run, shape_of
from ackd.numerics.precision import computing
from ackd.types import Batch, ModelDims, OutputRequest, Outputs


class ModelTeacher:
    """A frozen model that computes outputs in eval mode and without gradient.

    It is not part of the student's state dict or optimizer.

    Args:
        model: the model; it is frozen from now on.
        precision: of its passes and outputs.
    """

    def __init__(self, model: Model, *, precision: Precision = "fp32") -> None:
        self.model = model.eval().requires_grad_(False)
        self.precision = precision
        self._shape = shape_of(model)
        self._meter = Meter(model)

    @property
    def shape(self) -> ModelDims:
        """The model's sizes."""
        return self._shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, config and precision: everything that outputs depend on, except the batch."""
        ignored = {"_name_or_path", "transformers_version", "dtype", "architectures"}
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in ignored}
        digest = hashlib.sha256(json.dumps([config, self.precision], sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The requested outputs, without gradient; layers after the last needed one do not run."""
        size, length = batch.shape
        # not inference_mode: its tensors cannot be saved for the student's backward pass
        with costs.timing("teacher"), torch.no_grad(), computing(self.precision, self.model.device):
            outputs = run(self.model, batch, needs)
        costs.add_flops("teacher", self.flops(needs, size, length))
        costs.move("teacher", sum(outputs[field].nbytes for field in needs.fields))
        costs.teacher_queries += size
        return outputs

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of one pass over a padded batch."""
        return self._meter(needs).forward(size, length)
