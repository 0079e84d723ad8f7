"""A teacher with fixed soft labels for each class."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.types import Batch, ModelDims, OutputRequest, Outputs


class LabelTeacher:
    """Returns for each example the table row of its label, as logits `log q_y` with softmax `q_y`.

    It reads labels, so students are not compared with it.

    Args:
        log_table: `log q`, [C, C]: row y is the log of class y's distribution over the classes, without zeros.

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
        self._log = log_table.detach().float()  # on the device of the last batch

    @property
    def table(self) -> Tensor:
        """`q`, [C, C]."""
        return self._log.exp()

    @property
    def shape(self) -> ModelDims:
        """Sizes with classes only, without layers."""
        return ModelDims(layers=0, width=0, heads=0, classes=len(self._log), vocabulary=0)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return hashlib.sha256(b"labels" + self._log.cpu().contiguous().numpy().tobytes()).hexdigest()

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The table rows of the labels, [B, C].

        Raises:
            InputError: if other outputs than logits are requested.
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
        """0, because the table is only looked up."""
        return 0.0


def smooth_labels(classes: int) -> LabelTeacher:
    """Soft labels with all classes equally likely, the same for every label.

    References:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
        https://arxiv.org/abs/1512.00567, "label smoothing"
    """
    return LabelTeacher(torch.full((classes, classes), -math.log(classes)))
