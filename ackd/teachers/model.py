"""A frozen model as teacher."""

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
    """A model that answers in eval mode and without gradient, outside the student's state dict and optimizer.

    Args:
        model: what answers; frozen from now on.
        precision: what it computes in; its answers come in the same.
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
        """SHA-256 of the weights, the config and the precision: of all that an answer depends on but the question."""
        ignored = {"_name_or_path", "transformers_version", "dtype", "architectures"}
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in ignored}
        digest = hashlib.sha256(json.dumps([config, self.precision], sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
        return digest.hexdigest()

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The outputs asked for, without gradient; no layer behind the last one needed runs."""
        size, length = batch.shape
        # not inference_mode: its tensors cannot be saved for the student's backward pass
        with costs.timing("teacher"), torch.no_grad(), computing(self.precision, self.model.device):
            outputs = run(self.model, batch, needs)
        costs.add_flops("teacher", self.flops(needs, size, length))
        costs.move("teacher", sum(outputs[field].nbytes for field in needs.fields))
        costs.teacher_queries += size
        return outputs

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of one answer, for a padded batch."""
        return self._meter(needs).forward(size, length)
