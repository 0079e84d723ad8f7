"""The common base of losses between logits, of examples or of tokens."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.knowledge.masked import masked_mean, wide
from ackd.types import NO_TOKEN, Batch, Knowledge, OutputRequest, Outputs


class Response(Knowledge):
    """A loss between the logits `z` of student and teacher, [B, C]; C is 1 for regression.

    For language models, whose logits are [B, n, V], the loss of a text is the mean over its tokens that have a next
    token. If their vocabularies differ in size, both are cut to the shared tokens.
    """

    family = "logits"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.student_needs = self.teacher_needs = OutputRequest(logits=True)

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The losses `[...]` from two `[..., C]` in float32 or wider and the batch's labels, `[...]`."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        assert student.logits is not None
        assert teacher.logits is not None
        ours, theirs = wide(student.logits), wide(teacher.logits)
        if not batch.language:
            return self.compare(ours, theirs, batch.labels)
        shared = min(ours.shape[-1], theirs.shape[-1])
        losses = self.compare(ours[..., :shared], theirs[..., :shared], batch.labels)
        return masked_mean(losses, self.counted(ours[..., :shared], theirs[..., :shared], batch.labels))

    def counted(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """`[B, n]` bool, the tokens of a language model that count: those with a next token."""
        return labels != NO_TOKEN

    def flops(self, size: int, length: int) -> float:
        """0, because there is no matrix product."""
        return 0.0


def squared(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference over the last dimension."""
    return F.mse_loss(student, teacher, reduction="none").mean(-1)


def positive(temperature: float) -> float:
    """Checks a temperature and returns it.

    Raises:
        InputError: if it is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, got {temperature}")
    return temperature
