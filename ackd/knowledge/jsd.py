"""Response knowledge: divergences that weigh classes or tokens by the student's own distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge.divergence import kl
from ackd.knowledge.response import Response, positive, squared


class ReverseKL(Response):
    """Kullback-Leibler divergence of the student's softened outputs from the teacher's; squared difference for C = 1.

        L_i = tau^2 sum_c q_c (log q_c - log p_c),  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    It is small where the student is sure of something that the teacher finds likely, and leaves out what else the
    teacher finds likely. MiniLLM minimises it on texts that the student writes; here the texts are given.

    References:
        Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, 2024, https://arxiv.org/abs/2306.08543

    Raises:
        InputError: if the temperature is not above 0.
    """

    def __init__(self, *, temperature: float = 1.0, name: str = "reverse-kl") -> None:
        super().__init__(name)
        self.temperature = positive(temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        if student.shape[-1] == 1:
            return squared(student, teacher)
        log_p, log_q = (torch.log_softmax(one / self.temperature, -1) for one in (teacher, student))
        return self.temperature**2 * kl(log_p, log_q)


class JensenShannon(Response):
    """Generalised Jensen-Shannon divergence between softened outputs; squared difference for C = 1.

        L_i = tau^2 (beta KL(p || m) + (1 - beta) KL(q || m)),  m = beta p + (1 - beta) q,
        p = softmax(z_T / tau),  q = softmax(z_S / tau)

    Divided by beta it becomes the forward divergence as beta goes to 0, and divided by 1 - beta the reverse one as beta
    goes to 1. It is at most tau^2 log 2 for beta = 1/2.

    Args:
        beta: between 0 and 1, both excluded.
        temperature: tau.
        name: its name in selections.

    References:
        Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes (GKD), 2023,
        https://arxiv.org/abs/2306.13649, equation 1

    Raises:
        InputError: if the temperature is not above 0, or `beta` out of range.
    """

    def __init__(self, *, beta: float = 0.5, temperature: float = 1.0, name: str = "jsd") -> None:
        super().__init__(name)
        if not 0 < beta < 1:
            raise InputError(
                f"beta is {beta}: give a number between 0 and 1, or take 'logits' for 0 and 'reverse-kl' for 1"
            )
        self.beta, self.temperature = beta, positive(temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        if student.shape[-1] == 1:
            return squared(student, teacher)
        log_p, log_q = (torch.log_softmax(one / self.temperature, -1) for one in (teacher, student))
        log_m = torch.logaddexp(math.log(self.beta) + log_p, math.log1p(-self.beta) + log_q)
        return self.temperature**2 * (self.beta * kl(log_m, log_p) + (1 - self.beta) * kl(log_m, log_q))
