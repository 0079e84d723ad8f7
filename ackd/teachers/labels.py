"""A teacher that knows the label and nothing else."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.types import Batch, ModelDims, OutputRequest, Outputs


class LabelTeacher:
    """Answers an example with its label's row of a class table: logits `log q_y`, whose softmax is `q_y` itself.

    It reads labels, so it is nobody to compare a student with.

    Args:
        log_table: `log q`, [C, C]: of each class by its row, a distribution over the classes, none of them at 0.

    Raises:
        InputError: if there are fewer than two classes, or a row is no such distribution.
    """

    def __init__(self, log_table: Tensor) -> None:
        classes = len(log_table)
        if classes < 2:
            raise InputError(
                f"soft labels are distributions over classes, and there is {classes}: they are not for a regression"
            )
        sums = log_table.logsumexp(-1)
        if log_table.shape != (classes, classes) or not log_table.isfinite().all() or (sums.abs() > 1e-4).any():
            raise InputError("a table of soft labels has a row for each class, of numbers above 0 that sum to 1")
        self._log = log_table.detach().float()  # where it was asked for last

    @property
    def table(self) -> Tensor:
        """`q`, [C, C]."""
        return self._log.exp()

    @property
    def shape(self) -> ModelDims:
        """No layers: only classes."""
        return ModelDims(layers=0, width=0, heads=0, classes=len(self._log), vocabulary=0)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return hashlib.sha256(b"labels" + self._log.cpu().contiguous().numpy().tobytes()).hexdigest()

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The rows of the labels, [B, C].

        Raises:
            InputError: if more than logits is asked for.
        """
        for kind, _ in needs.fields:
            if kind != "logits":
                raise InputError(f"soft labels are logits alone and have no {kind}: select knowledge of the logits")
        with costs.timing("teacher"):
            self._log = self._log.to(batch.labels.device)
            logits = self._log[batch.labels]
        costs.move("teacher", logits.nbytes)
        costs.teacher_queries += len(logits)
        return Outputs(logits)

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """0: an answer is looked up."""
        return 0.0


def smooth_labels(classes: int) -> LabelTeacher:
    """The same for every label: all classes equally likely.

    References:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
        https://arxiv.org/abs/1512.00567, "label smoothing"
    """
    return LabelTeacher(torch.full((classes, classes), -math.log(classes)))
