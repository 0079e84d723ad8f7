"""Response knowledge: the teacher's likeliest classes or tokens, and all others together."""

from __future__ import annotations

import torch
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge.divergence import kl
from ackd.knowledge.response import Response, positive, squared

TOP = 32  # tokens


class TopK(Response):
    """Kullback-Leibler divergence over the teacher's k likeliest classes or tokens, and the rest as one more.

        L_i = tau^2 KL(p' || q'),  p' = (p_c for the k classes c of the largest p, 1 - their sum),  q' for the same c,
        p = softmax(z_T / tau),  q = softmax(z_S / tau)

    It is at most the divergence over all classes, and equal to it if there are at most k + 1. Squared difference for
    C = 1.

    Args:
        k: the number of classes or tokens.
        temperature: tau.
        name: its name in selections.

    References:
        Peng et al., Pre-training Distillation for Large Language Models: A Design Space Exploration, 2024,
        https://arxiv.org/abs/2410.16215, keeps the likeliest tokens; the bucket of all others is ours.

    Raises:
        InputError: if `k` is below 1, or the temperature is not above 0.
    """

    def __init__(self, *, k: int = TOP, temperature: float = 1.0, name: str = "top-k") -> None:
        super().__init__(name)
        if k < 1:
            raise InputError(f"k is {k}: give the number of likeliest tokens, at least 1")
        self.k, self.temperature = k, positive(temperature)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example or token, `[...]`."""
        if student.shape[-1] == 1:
            return squared(student, teacher)
        log_p, log_q = (torch.log_softmax(one / self.temperature, -1) for one in (teacher, student))
        top = log_p.topk(min(self.k, log_p.shape[-1]), -1).indices
        return self.temperature**2 * kl(bucketed(log_q, top), bucketed(log_p, top))


def bucketed(log_p: Tensor, top: Tensor) -> Tensor:
    """Log-probabilities of some classes, and of all others together.

    Args:
        log_p: [..., C].
        top: [..., k], indices of the classes.

    Returns:
        [..., k + 1].
    """
    # the lowest finite number: its share is exactly 0, and 0 times it is 0; 0 times infinity would be NaN
    rest = log_p.scatter(-1, top, torch.finfo(log_p.dtype).min).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, top), rest], -1)
