"""Refined logits: losses that stay useful if the teacher's likeliest class is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from ackd.knowledge.divergence import kl
from ackd.knowledge.response import Response, positive
from ackd.knowledge.revision import check_classes
from ackd.types import ModelDims


class SampleConfidence(Response):
    """SCD: transfers the teacher's confidence in its likeliest class to the student's in the label's class.

        L_i = tau^2 KL((p_max, 1 - p_max) || (q_y, 1 - q_y)),  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    References:
        Sun et al., Knowledge Distillation with Refined Logits, 2024, https://arxiv.org/abs/2408.07703

    Raises:
        InputError: for regression (C = 1), or a temperature that is not above 0.
    """

    def __init__(self, student: ModelDims, teacher: ModelDims, *, temperature: float = 1.0, name: str = "scd") -> None:
        super().__init__(name)
        check_classes(min(student.classes, teacher.classes), "refine")
        self.temperature = positive(temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss per example, `[B]`."""
        log_q = _against_the_rest(student / self.temperature, labels)
        log_p = _against_the_rest(teacher / self.temperature, teacher.argmax(-1))
        return self.temperature**2 * kl(log_q, log_p)


class MaskedCorrelation(Response):
    """MCD: divergence over the classes that the teacher ranks below the label's class.

        L_i = tau^2 KL(p || q) over the classes c with z_T,c < z_T,y,  p = softmax(z_T / tau),  q = softmax(z_S / tau)

    Both softmaxes are over these classes only. With fewer than two such classes the loss is 0, as always for C = 2.

    References:
        Sun et al., Knowledge Distillation with Refined Logits, 2024, https://arxiv.org/abs/2408.07703

    Raises:
        InputError: for regression (C = 1), or a temperature that is not above 0.
    """

    def __init__(self, student: ModelDims, teacher: ModelDims, *, temperature: float = 4.0, name: str = "mcd") -> None:
        super().__init__(name)
        check_classes(min(student.classes, teacher.classes), "refine")
        self.temperature = positive(temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss per example, `[B]`."""
        hidden = teacher >= teacher.gather(-1, labels[:, None])

        def log_softmax(logits: Tensor) -> Tensor:
            # the lowest finite number: its share is exactly 0, and 0 times it is 0; 0 times infinity would be NaN
            lowest = torch.finfo(logits.dtype).min
            return (logits / self.temperature).masked_fill(hidden, lowest).log_softmax(-1)

        return self.temperature**2 * kl(log_softmax(student), log_softmax(teacher))


def _against_the_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """`(log p_c, log (1 - p_c))` of one class for each example, [B, 2]; stable also if p is close to 1."""
    log_p = logits.log_softmax(-1)
    one = log_p.gather(-1, classes[:, None])
    rest = log_p.scatter(-1, classes[:, None], torch.finfo(log_p.dtype).min).logsumexp(-1, keepdim=True)
    return torch.cat([one, rest], -1)
