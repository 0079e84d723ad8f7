"""Scores for the examples of a batch, and the selection of examples by score.

Scores are computed from logits without gradient; the largest come first. Each has a reverse, named with `-r`.

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
    """`-sum_c p_c log p_c` of `softmax(logits)` in nats, [B] from [B, C]; 0 if one class has probability 1."""
    log_p = wide(logits).log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)  # p = 0 adds 0, not NaN


def uncertainty(logits: Tensor) -> Tensor:
    """Entropy over log C, in [0, 1], [B] from [B, C].

    Raises:
        InputError: for fewer than two classes, which have no uncertainty.
    """
    check_uncertain(logits.shape[-1])
    return (entropy(logits) / math.log(logits.shape[-1])).clamp(0.0, 1.0)


def margin(logits: Tensor) -> Tensor:
    """The negative margin of the likeliest class, `p_(2) - p_(1)` in [-1, 0], [B] from [B, C]."""
    first, second = wide(logits).softmax(-1).topk(2, -1).values.unbind(-1)
    return second - first


def confidence(logits: Tensor) -> Tensor:
    """The negative confidence `-max_c p_c`, [B] from [B, C]."""
    return -wide(logits).softmax(-1).amax(-1)


_ELSEWISE = "choose examples by their loss or at random (--score loss, --score random)"


def check_uncertain(classes: int, instead: str = _ELSEWISE) -> None:
    """Rejects models without an uncertainty over classes; the message ends with the advice `instead`.

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
    """The share of a batch that a score ranks first, at least one example.

    Args:
        score: one of `NAMES`: `entropy`, `margin` (smallest first) and `confidence` (lowest first) of the logits,
            `loss` on the labels, each with its reverse `...-r`, or `random`.
        keep: the picked share, above 0 and at most 1; int(keep * B) examples, at least 1.

    Raises:
        InputError: if the score is unknown or the share is out of range.
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
        """Whether the score is an uncertainty over classes, which a regression does not have."""
        return self.score.removesuffix(REVERSED) in _UNCERTAIN

    def count(self, size: int) -> int:
        """The number of picked examples among `size`."""
        return max(int(size * self.keep + 1e-9), 1)  # 0.29 * 100 is 28.999...

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The indices of the picked examples in ascending order, [R] int64 on the device.

        `random` draws from torch's generator.

        Args:
            logits: [B, C]; for `loss` and `random` also [B, n, V] of a language model.
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
