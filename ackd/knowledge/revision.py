"""Label revision: corrects a teacher's mistakes by the labels."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ackd.errors import InputError, unknown
from ackd.knowledge.labels import label_loss
from ackd.knowledge.masked import wide
from ackd.knowledge.response import Response
from ackd.types import ModelDims

Where: TypeAlias = Literal["wrong", "all"]
FLOOR = -1e30  # for log 0: its exponential is 0 at any temperature, and it never becomes infinite


def revised(logits: Tensor, labels: Tensor, *, eta: float, where: Where = "wrong") -> Tensor:
    """The log of the teacher's distribution, revised so that the label's class is the likeliest, [B, C].

        p' = beta p + (1 - beta) e_y,  beta = eta / (max_c p_c - p_y + 1),  p = softmax(logits)

    The shares of all other classes keep their ratios. With `where` as `wrong`, p' is p if no class is likelier than the
    label's. No number is below `FLOOR`.

    Args:
        logits: [B, C].
        labels: [B], int64 classes.
        eta: in (0, 1); if the teacher was wrong, the label's class leads the teacher's by 1 - eta.
        where: revise the wrong predictions, or all.

    References:
        Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, 2024,
        https://arxiv.org/abs/2404.03693
    """
    log_p = wide(logits).log_softmax(-1)
    best, own = log_p.amax(-1, keepdim=True), log_p.gather(-1, labels[:, None])
    beta = eta / (best.exp() - own.exp() + 1)
    target = torch.logaddexp(beta.log() + own, torch.log1p(-beta))
    answer = (log_p + beta.log()).scatter(-1, labels[:, None], target)
    if where == "wrong":
        answer = torch.where(right(logits, labels)[:, None], log_p, answer)
    return answer.clamp_min(FLOOR)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """True if no class is likelier than the label's, [B] bool from [B, C] and [B]."""
    return logits.gather(-1, labels[:, None])[:, 0] >= logits.amax(-1)


def check_revision(classes: int, eta: float, where: str) -> None:
    """Rejects arguments with which nothing can be revised.

    Raises:
        InputError: for regression, an `eta` outside (0, 1), or an unknown `where`.
    """
    check_classes(classes, "revise")
    if not 0 < eta < 1:
        raise InputError(f"eta is {eta}: the label's class leads a revised answer for an eta between 0 and 1 only")
    if where not in get_args(Where):
        raise unknown("place for a revision", where, get_args(Where))


def check_classes(classes: int, verb: str) -> None:
    """Rejects a model without classes.

    Raises:
        InputError: for fewer than two outputs.
    """
    if classes < 2:
        raise InputError(
            f"a teacher with 1 output, as for a regression, gives no probabilities to {verb}: use 'logits-mse' instead"
        )


class Revision(Response):
    """The whole loss of label revision in another team's implementation, label loss included.

        L = mean over right i [CE_i + lambda1 MSE(z_S, z_T)_i] + lambda2 mean over wrong i MSE(softmax z_S, p')_i

    An example is right if the teacher has no class likelier than the label's. MSE is the mean over classes; a group
    without examples counts 0. The loss of an example is its own part times B over its group's size, so that the mean
    over a batch is L. Use it with `Selection(..., labels=0)`.

    Args:
        student: the student's sizes.
        teacher: the teacher's sizes.
        eta: as in `revised`.
        lambda1: weight of the logits' loss.
        lambda2: weight of the loss to the revised distributions.

    References:
        Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, 2024,
        https://arxiv.org/abs/2404.03693, as read in https://github.com/zju-SWJ/RLD

    Raises:
        InputError: for regression (C = 1), an `eta` outside (0, 1) or a negative weight.
    """

    def __init__(
        self,
        student: ModelDims,
        teacher: ModelDims,
        *,
        eta: float = 0.8,
        lambda1: float = 4.0,
        lambda2: float = 1.0,
        name: str = "label-revision",
    ) -> None:
        super().__init__(name)
        check_revision(min(student.classes, teacher.classes), eta, "wrong")
        for what, weight in {"lambda1": lambda1, "lambda2": lambda2}.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"{what} is {weight}: a weight is finite and not negative")
        self.eta, self.lambda1, self.lambda2 = eta, lambda1, lambda2

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss per example, `[B]`."""
        target = revised(teacher, labels, eta=self.eta).exp()
        known = label_loss(student, labels) + self.lambda1 * (student - teacher).square().mean(-1)
        mended = self.lambda2 * (student.softmax(-1) - target).square().mean(-1)
        knows = right(teacher, labels)
        count = torch.where(knows, knows.sum(), (~knows).sum()).to(student.dtype)
        return len(labels) / count * torch.where(knows, known, mended)
