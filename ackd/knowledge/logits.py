"""Response knowledge: the teacher's logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.errors import InputError
from ackd.knowledge.divergence import kl
from ackd.knowledge.response import Response, positive, squared
from ackd.types import ModelDims


class Logits(Response):
    """Kullback-Leibler divergence between softened outputs, or the squared difference for regression (C = 1).

        L_i = tau^2 sum_c p_c (log p_c - log q_c),  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    `teacher_temperature` is a separate temperature for p; with 1, p is the teacher's own distribution.

    References:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531

    Raises:
        InputError: if the temperature is not above 0.
    """

    def __init__(
        self, *, temperature: float = 4.0, teacher_temperature: float | None = None, name: str = "logits"
    ) -> None:
        super().__init__(name)
        self.temperature = positive(temperature)
        self.teacher_temperature = positive(temperature if teacher_temperature is None else teacher_temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        if student.shape[-1] == 1:
            return squared(student, teacher)
        log_p = torch.log_softmax(teacher / self.teacher_temperature, -1)
        log_q = torch.log_softmax(student / self.temperature, -1)
        return self.temperature**2 * kl(log_q, log_p)


class LogitsMse(Response):
    """Mean squared error between the logits themselves, without a temperature.

        L_i = mean over classes c of (z_S - z_T)^2_c

    References:
        Ba, Caruana, Do Deep Nets Really Need to be Deep?, 2014, https://arxiv.org/abs/1312.6184
    """

    def __init__(self, *, name: str = "logits-mse") -> None:
        super().__init__(name)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        return squared(student, teacher)


class LogitsSoftCrossEntropy(Response):
    """Cross-entropy of the student under the teacher's distribution, or the squared difference for regression (C = 1).

        L_i = -sum_c p_c log q_c,  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    Its gradient is that of the divergence, without tau^2; its minimum is the entropy of p, not 0.
    `teacher_temperature` is a separate temperature for p.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020,
        https://arxiv.org/abs/1909.10351

    Raises:
        InputError: if the temperature is not above 0.
    """

    def __init__(
        self, *, temperature: float = 1.0, teacher_temperature: float | None = None, name: str = "logits-soft-ce"
    ) -> None:
        super().__init__(name)
        self.temperature = positive(temperature)
        self.teacher_temperature = positive(temperature if teacher_temperature is None else teacher_temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        if student.shape[-1] == 1:
            return squared(student, teacher)
        p = torch.softmax(teacher / self.teacher_temperature, -1)
        return -(p * torch.log_softmax(student / self.temperature, -1)).sum(-1)


class LogitsCosine(Response):
    """One minus the cosine between the logits: only their direction counts, not their size.

        L_i = 1 - z_S . z_T / (|z_S| |z_T|)

    For logits this loss is ours; DistilBERT, 2019, https://arxiv.org/abs/1910.01108 uses it for hidden states.

    Raises:
        InputError: for regression (C = 1), where a cosine is only a sign.
    """

    def __init__(self, student: ModelDims, teacher: ModelDims, *, name: str = "logits-cosine") -> None:
        super().__init__(name)
        if 1 in (student.classes, teacher.classes):
            raise InputError(
                f"{name!r} compares directions, and the models answer with 1 number, which has only a sign: "
                "use 'logits-mse' for regression"
            )

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        return 1 - F.cosine_similarity(student, teacher, dim=-1)
