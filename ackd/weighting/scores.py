"""One number for each example of a batch, and the examples that it picks.

Scores are read from logits without gradient; of a score, the largest come first. Each has a reverse, named with `-r`.

References:
    Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
    https://arxiv.org/abs/2109.11295
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ackd.errors import InputError, unknown
from ackd.knowledge.labels import label_loss
from ackd.knowledge.masked import wide


def entropy(logits: Tensor) -> Tensor:
    """`-sum_c p_c log p_c` of `softmax(logits)` in nats, [B] from [B, C]; 0 where one class has all of it."""
    log_p = wide(logits).log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)  # of p = 0 it takes 0, not NaN


def uncertainty(logits: Tensor) -> Tensor:
    """Entropy over log C, in [0, 1], [B] from [B, C].

    Raises:
        InputError: for fewer than two classes, which leave nothing to be uncertain of.
    """
    check_uncertain(logits.shape[-1])
    return (entropy(logits) / math.log(logits.shape[-1])).clamp(0.0, 1.0)


def margin(logits: Tensor) -> Tensor:
    """How close the second likeliest class comes: `p_(2) - p_(1)`, in [-1, 0], [B] from [B, C]."""
    first, second = wide(logits).softmax(-1).topk(2, -1).values.unbind(-1)
    return second - first


def confidence(logits: Tensor) -> Tensor:
    """How little confident the likeliest class is: `-max_c p_c`, [B] from [B, C]."""
    return -wide(logits).softmax(-1).amax(-1)


_ELSEWISE = "choose examples by their loss or at random (--score loss, --score random)"


def check_uncertain(classes: int, instead: str = _ELSEWISE) -> None:
    """Refuses what has no classes to be uncertain between, and says what to do `instead`.

    Raises:
        InputError: for fewer than two outputs.
    """
    if classes < 2:
        raise InputError(f"a model with 1 output, as for a regression, has no uncertainty over classes: {instead}")


_UNCERTAIN: dict[str, Callable[[Tensor], Tensor]] = {"entropy": entropy, "margin": margin, "confidence": confidence}
REVERSED = "-r"
NAMES = (*(name + end for name in (*_UNCERTAIN, "loss") for end in ("", REVERSED)), "random")


@dataclass(frozen=True)
class TopFraction:
    """The part of a batch that a score puts first: at least one example.

    Args:
        score: one of `NAMES`: `entropy`, `margin` (smallest first) and `confidence` (least first) of the answers,
            `loss` on the labels, each with its reverse `...-r`, or `random`.
        keep: the share that is picked, above 0 and at most 1; int(share of B), and 1 where that is 0.

    Raises:
        InputError: if the score is not known or the share out of range.
    """

    score: str
    keep: float

    def __post_init__(self) -> None:
        if self.score not in NAMES:
            raise unknown("score", self.score, NAMES)
        if not 0 < self.keep <= 1:
            raise InputError(f"a share of {self.keep} of the examples cannot be kept: give one above 0, at most 1")

    @property
    def uncertain(self) -> bool:
        """Whether it reads an uncertainty over classes, which a regression has not."""
        return self.score.removesuffix(REVERSED) in _UNCERTAIN

    def count(self, size: int) -> int:
        """How many of `size` examples are picked."""
        return max(int(size * self.keep + 1e-9), 1)  # 0.29 * 100 is 28.999...

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The places of the picked examples in their order, [R] int64 on the device.

        `random` draws from torch's generator.

        Args:
            logits: [B, C]; for the loss, or at random, also [B, n, V] of a language model.
            labels: [B], or [B, n].

        Raises:
            InputError: for an uncertainty over fewer than two classes, or over a language model's tokens.
        """
        kept = self.count(len(logits))
        name = self.score.removesuffix(REVERSED)
        with torch.no_grad():
            if name == "random":
                return torch.randperm(len(logits), device=logits.device)[:kept].sort().values
            if self.uncertain:
                check_uncertain(logits.shape[-1])
                if logits.dim() > 2:
                    raise InputError(f"a language model is uncertain of each token, not of an example: {_ELSEWISE}")
            score = _UNCERTAIN[name](logits) if self.uncertain else label_loss(logits, labels)
            order = score.argsort(descending=not self.score.endswith(REVERSED), stable=True)
            return order[:kept].sort().values
