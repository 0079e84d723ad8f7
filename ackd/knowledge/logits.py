"""Response knowledge: the teacher's output distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.types import Batch, Knowledge, Needs, Outputs


class Logits(Knowledge):
    """Kullback-Leibler divergence between softened outputs, or the squared difference for regression (C = 1).

        L_i = tau^2 sum_c p_c (log p_c - log q_c),  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    References:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531

    Raises:
        InputError: if the temperature is not above 0.
    """

    family = "logits"

    def __init__(self, *, temperature: float = 4.0, name: str = "logits") -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"the temperature must be above 0, got {temperature}")
        self.name = name
        self.temperature = temperature
        self.student_needs = self.teacher_needs = Needs(logits=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The loss per example, `[B]`."""
        assert student.logits is not None
        assert teacher.logits is not None
        if student.logits.shape[-1] == 1:
            return (student.logits - teacher.logits)[:, 0].square()
        log_p = torch.log_softmax(teacher.logits / self.temperature, -1)
        log_q = torch.log_softmax(student.logits / self.temperature, -1)
        return self.temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)

    def flops(self, size: int, length: int) -> float:
        """0: no matrix product."""
        return 0.0
