"""The common base of losses between logits."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge.masked import wide
from ackd.types import Batch, Knowledge, OutputRequest, Outputs


class Response(Knowledge):
    """A loss between the logits `z` of student and teacher, [B, C]; C is 1 for regression."""

    family = "logits"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.student_needs = self.teacher_needs = OutputRequest(logits=True)

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss per example, `[B]`, from two `[B, C]` in float32 or wider and the batch's labels."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        assert student.logits is not None
        assert teacher.logits is not None
        return self.compare(wide(student.logits), wide(teacher.logits), batch.labels)

    def flops(self, size: int, length: int) -> float:
        """0, because there is no matrix product."""
        return 0.0


def positive(temperature: float) -> float:
    """Checks a temperature and returns it.

    Raises:
        InputError: if it is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, got {temperature}")
    return temperature
