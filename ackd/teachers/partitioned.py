"""Combines a teacher and the initial student; each one teaches the examples on which it is better."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError, unknown
from ackd.knowledge.masked import wide
from ackd.knowledge.revision import check_classes
from ackd.teachers.wrapper import TeacherWrapper
from ackd.types import Batch, OutputRequest, Outputs, Teacher

By: TypeAlias = Literal["label", "confidence"]


class Partitioned(TeacherWrapper):
    """Returns the logits of the teacher or of the initial student, whichever is better on the example.

        z = z_T where p_T,y > p_S0,y (by label), or where max p_T > max p_S0 (by confidence); z_S0 elsewhere

    Only logits are combined; all other outputs come from the teacher. Both models run on every example, which counts as
    two queries.

    Args:
        inner: the teacher.
        initial: the student before its first step, frozen.
        by: the criterion of the comparison; `confidence` does not use labels.

    References:
        Roth et al., Fantastic Gains and Where to Find Them: On the Existence and Prospect of General Knowledge
        Transfer between Any Pretrained Model, ICLR 2024, https://arxiv.org/abs/2310.17653

    Raises:
        InputError: for regression (C = 1), different classes, or an unknown `by`.
    """

    def __init__(self, inner: Teacher, initial: Teacher, by: By = "label") -> None:
        check_classes(inner.shape.classes, "compare")
        if inner.shape.classes != initial.shape.classes:
            raise InputError(
                f"the teacher has {inner.shape.classes} classes and the student {initial.shape.classes}: their answers "
                "cannot stand for each other; give models of one task"
            )
        if by not in get_args(By):
            raise unknown("comparison", by, get_args(By))
        self.inner, self.initial = inner, initial
        self.by = by

    @property
    def fingerprint(self) -> str:
        """Fingerprints of both models, and the criterion."""
        return f"{self.inner.fingerprint}-partitioned-{self.by}-{self.initial.fingerprint}"

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of the teacher, plus those of the initial student if logits are requested."""
        price = self.inner.flops(needs, size, length)
        return price + self.initial.flops(OutputRequest(logits=True), size, length) if needs.logits else price

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The requested outputs; each example's logits come from the better model."""
        outputs = self.inner(batch, needs, costs)
        if outputs.logits is None:
            return outputs
        initial = self.initial(batch, OutputRequest(logits=True), costs).logits
        assert initial is not None
        with costs.timing("teacher"):
            theirs, ours = wide(outputs.logits), wide(initial)
            better = self._height(theirs, batch.labels) > self._height(ours, batch.labels)
            return replace(outputs, logits=torch.where(better, theirs, ours))

    def _height(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, 1], the log of the compared probability; probabilities near 1 would all round to 1."""
        log_p = logits.log_softmax(-1)
        return log_p.gather(-1, labels[:, None]) if self.by == "label" else log_p.amax(-1, keepdim=True)
