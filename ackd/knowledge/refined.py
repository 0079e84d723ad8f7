"""Refined logits: what a teacher's answer still tells where its likeliest class is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge.divergence import kl
from ackd.knowledge.masked import wide
from ackd.knowledge.revision import check_classes
from ackd.types import Batch, Knowledge, Needs, Outputs, Shape


class SampleConfidence(Knowledge):
    """How confident the teacher is of its likeliest class, learned as confidence in the label's: SCD.

        L_i = tau^2 KL((p_max, 1 - p_max) || (q_y, 1 - q_y)),  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    References:
        Sun et al., Knowledge Distillation with Refined Logits, 2024, https://arxiv.org/abs/2408.07703

    Raises:
        InputError: for regression (C = 1), or a temperature that is not above 0.
    """

    family = "logits"

    def __init__(self, student: Shape, teacher: Shape, *, temperature: float = 1.0, name: str = "scd") -> None:
        super().__init__()
        self.name, self.temperature = name, _checked(student, teacher, temperature)
        self.student_needs = self.teacher_needs = Needs(logits=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        assert student.logits is not None
        assert teacher.logits is not None
        ours, theirs = (wide(logits) / self.temperature for logits in (student.logits, teacher.logits))
        log_q = _against_the_rest(ours, batch.labels)
        log_p = _against_the_rest(theirs, theirs.argmax(-1))
        return self.temperature**2 * kl(log_q, log_p)

    def flops(self, size: int, length: int) -> float:
        """0: no matrix product."""
        return 0.0


class MaskedCorrelation(Knowledge):
    """How the classes that the teacher puts behind the label's compare with each other: MCD.

        L_i = tau^2 KL(p || q) over the classes c with z_T,c < z_T,y,  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    both over those classes alone. Fewer than two classes have nothing to compare and give 0, as always for C = 2.

    References:
        Sun et al., Knowledge Distillation with Refined Logits, 2024, https://arxiv.org/abs/2408.07703

    Raises:
        InputError: for regression (C = 1), or a temperature that is not above 0.
    """

    family = "logits"

    def __init__(self, student: Shape, teacher: Shape, *, temperature: float = 4.0, name: str = "mcd") -> None:
        super().__init__()
        self.name, self.temperature = name, _checked(student, teacher, temperature)
        self.student_needs = self.teacher_needs = Needs(logits=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        assert student.logits is not None
        assert teacher.logits is not None
        ours, theirs = wide(student.logits), wide(teacher.logits)
        hidden = theirs >= theirs.gather(-1, batch.labels[:, None])

        def log_softmax(logits: Tensor) -> Tensor:
            # the lowest finite number: its share is exactly 0, and 0 times it is no NaN as 0 times infinity would be
            lowest = torch.finfo(logits.dtype).min
            return (logits / self.temperature).masked_fill(hidden, lowest).log_softmax(-1)

        return self.temperature**2 * kl(log_softmax(ours), log_softmax(theirs))

    def flops(self, size: int, length: int) -> float:
        """0: no matrix product."""
        return 0.0


def _checked(student: Shape, teacher: Shape, temperature: float) -> float:
    check_classes(min(student.classes, teacher.classes), "refine")
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, got {temperature}")
    return temperature


def _against_the_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """`(log p_c, log (1 - p_c))` of one class each, [B, 2]: 1 - p would be 0 for an answer that is sure."""
    log_p = logits.log_softmax(-1)
    one = log_p.gather(-1, classes[:, None])
    rest = log_p.scatter(-1, classes[:, None], torch.finfo(log_p.dtype).min).logsumexp(-1, keepdim=True)
    return torch.cat([one, rest], -1)
