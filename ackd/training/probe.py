"""Facts about a setting before the first step: how well teacher and initial student predict the labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge.masked import wide
from ackd.mdp.episode import Facts
from ackd.models import Meter, Model, run
from ackd.numerics.precision import computing
from ackd.tasks import Split
from ackd.training.measuring import Ask
from ackd.types import Batch, OutputRequest, Outputs, Teacher

logger = logging.getLogger("ackd")

SAMPLE = 500  # most examples of a split for the probes; four times as many raised their accuracy by .01
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)  # ridge penalties; leave-one-out error selects one

SURE = 3.0  # standard errors by which another order of classes has to be better
USELESS = 0.05  # agreement above chance that a reward split of 256 examples can reach by accident


def sampled(split: Split) -> Split:
    """At most `SAMPLE` examples of a split, evenly spaced and always the same."""
    count = min(SAMPLE, len(split))
    return split.select(np.arange(count) * len(split) // count)


def last_states(layers: int, *, of: int) -> OutputRequest:
    """The outputs of the last `layers` layers of a model with `of` layers."""
    return OutputRequest(hidden=frozenset(range(max(of - layers, 0), of)))


def reading(model: Model, meter: Meter, precision: Precision, needs: OutputRequest) -> Ask:
    """Returns a function that computes the student's features, [B, 2d a layer], in place of logits."""

    def ask(batch: Batch, _: OutputRequest, costs: CostTracker) -> Outputs:
        costs.add_flops("student", meter(needs).forward(*batch.shape))
        with computing(precision, batch.mask.device):
            return Outputs(logits=_pooled(run(model, batch, needs), batch))

    return ask


def hearing(teacher: Teacher, split: Split, device: torch.device) -> Ask:
    """Returns a function that computes the teacher's logits, [B, C], and its features beside them, in place of logits.

    Features are those of its last two layers; there are none if it does not answer an example with hidden states.

    Args:
        teacher: the teacher.
        split: it is tried with the first example.
        device: of the teacher.
    """
    needs = OutputRequest(logits=True, hidden=last_states(2, of=teacher.shape.layers).hidden)
    try:
        answer = teacher(split.batch([0]).to(device), needs, CostTracker())
        shown = bool(needs.hidden) and answer.hidden.keys() == needs.hidden
    except InputError:
        shown = False

    def ask(batch: Batch, logits: OutputRequest, costs: CostTracker) -> Outputs:
        answer = teacher(batch, needs if shown else logits, costs)
        assert answer.logits is not None
        return Outputs(logits=torch.cat([answer.logits.float(), _pooled(answer, batch)], 1) if shown else answer.logits)

    return ask


def _pooled(outputs: Outputs, batch: Batch) -> Tensor:
    """The mean over tokens and the first token of each layer's states, [B, 2d a layer]."""
    mask, parts = batch.mask[..., None], []
    for layer in sorted(outputs.hidden):
        states = wide(outputs.hidden[layer])
        parts += [states.where(mask.bool(), 0.0).sum(1) / mask.sum(1), states[:, 0]]
    return torch.cat(parts, 1)


def probed(states: NDArray[np.float64], labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """Predictions of a linear probe, [N, C] ([N, 1] for regression): ridge regression on standardised states.

        W = argmin sum_i |y_i - W x_i - b|^2 + a |W|^2,  y one-hot classes, or the labels themselves where C = 1

    Each example is predicted by a probe of all others, in closed form: y_i - (y_i - yhat_i) / (1 - h_ii), where yhat
    are the predictions of a probe of all and h is its hat matrix. The penalty a is the one of `STRENGTHS` with the
    smallest squared error of these predictions. If the states are not finite, the predictions are NaN. The probe is as
    accurate as logistic regression with a cross-validated penalty, in a tenth of the time.

    Args:
        states: [N, D].
        labels: [N].
        classes: C.

    References:
        Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016,
        https://arxiv.org/abs/1610.01644
        Golub et al., Generalized cross-validation as a method for choosing a good ridge parameter, 1979,
        https://doi.org/10.1080/00401706.1979.10489751
    """
    if not np.isfinite(states).all():
        return np.full((len(states), classes), np.nan)
    spread = states.std(0)
    spread[spread == 0] = 1.0
    x = (states - states.mean(0)) / spread
    wanted = labels[:, None].astype(np.float64) if classes == 1 else np.eye(classes)[labels]
    y = wanted - wanted.mean(0)
    vectors, values, _ = np.linalg.svd(x, full_matrices=False)
    turned = vectors.T @ y

    def errors(strength: float) -> NDArray[np.float64]:
        shares = values**2 / (values**2 + strength)
        left = 1 - 1 / len(x) - np.square(vectors) @ shares
        return (y - vectors @ (shares[:, None] * turned)) / left[:, None]

    best = min(map(errors, STRENGTHS), key=lambda one: float(np.square(one).mean()))
    return np.asarray(wanted - best)


def fit_flops(examples: int, features: int) -> float:
    """FLOPs of fitting the probe: the singular value decomposition of the N x D states.

        6 N D m + 20 m^3,  m = min(N, D)

    References:
        Golub & Van Loan, Matrix Computations, 4th ed. 2013, section 8.6
    """
    smaller = min(examples, features)
    return 6.0 * examples * features * smaller + 20.0 * smaller**3


def lead(answers: NDArray[np.float64], others: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """Standard errors by which answers predict the labels better than other answers do; 0 if some are not finite.

        sum_i g_i / sqrt(sum_i g_i^2),  g_i = r_i - s_i

    r_i and s_i say whether the answers and the others are right on example i; for regression they are negative squared
    errors, of the line through each answers that fits the labels best.

    Args:
        answers: [N, C].
        others: [N, C].
        labels: [N].
    """
    if not (np.isfinite(answers).all() and np.isfinite(others).all()):
        return 0.0
    return _standard_errors(_right(answers, labels) - _right(others, labels))


def _standard_errors(gains: NDArray[np.float64]) -> float:
    """By how many standard errors gains, [N], are above 0."""
    return float(gains.sum() / max(np.sqrt(np.square(gains).sum()), 1e-12))


def _right(answers: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    if answers.shape[1] > 1:
        return (answers.argmax(1) == labels).astype(np.float64)
    said, wanted = answers[:, 0] - answers[:, 0].mean(), labels - labels.mean()
    slope = max(float(said @ wanted), 0.0) / max(float(said @ said), 1e-12)
    return -np.square(wanted - slope * said)


def agreement(answers: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """The accuracy of [R, C] answers; for C = 1, Pearson's correlation with the labels, at least 0.

    0 if an answer is not finite.
    """
    from ackd.tasks.metrics import METRICS

    if not np.isfinite(answers).all():
        return 0.0
    if answers.shape[1] == 1:
        return max(METRICS["pearson"](answers[:, 0], labels), 0.0)
    return METRICS["accuracy"](answers.argmax(1), labels)


def confidence(logits: NDArray[np.float64]) -> float:
    """The mean probability of the most likely class, from [R, C] logits; 0 if C = 1 or a logit is not finite."""
    if logits.shape[1] == 1 or not np.isfinite(logits).all():
        return 0.0
    return float(np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1)).mean())


def better_order(answers: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.int64] | None:
    """The teacher's order of classes, if it clearly differs from the task's order.

    Each half of the examples gives the order with the highest accuracy, which is then tested on the other half. Both
    halves have to give the same order. It has to be more accurate than the task's order, and than always predicting
    the largest class, by `SURE` standard errors: (n - m) / sqrt(n + m), where n examples are correct in this order
    only, and m with the alternative only.

    Args:
        answers: [R, C], C above 1.
        labels: [R], classes.

    Returns:
        [C], the task's class of each of the teacher's classes; None if no other order is clearly better.
    """
    from scipy.optimize import linear_sum_assignment

    said, classes = answers.argmax(1), answers.shape[1]
    if not np.isfinite(answers).all() or classes > len(labels):
        return None

    def chosen(indices: slice) -> NDArray[np.int64]:
        counts = np.zeros((classes, classes))
        np.add.at(counts, (said[indices], labels[indices]), 1)
        order: NDArray[np.int64] = linear_sum_assignment(counts + np.eye(classes) / 2, maximize=True)[1]
        return order  # on a tie a class keeps its place

    halves = slice(0, None, 2), slice(1, None, 2)
    orders = [chosen(half) for half in halves]
    read = np.zeros(len(labels), np.bool_)
    for half, order in zip(halves, orders[::-1], strict=True):
        read[half] = order[said[half]] == labels[half]
    others = said == labels, labels == np.bincount(labels).argmax()
    surely = all(_standard_errors(read * 1.0 - other) > SURE for other in others)
    return orders[0] if surely and np.array_equal(orders[0], orders[1]) else None


def warn(facts: Facts, answers: NDArray[np.float64] | None, labels: NDArray[Any], classes: Sequence[str]) -> None:
    """Logs a warning if the teacher may harm the student or be of no use.

    Args:
        facts: facts about the setting.
        answers: the teacher's logits on the reward split, [R, C]; None if they are not known.
        labels: [R], labels of the reward split.
        classes: names of the task's classes; empty if the task has no classes.
    """
    order = better_order(answers, labels) if answers is not None and classes else None
    most = np.bincount(labels).max() / len(labels) if classes else 0.0
    if order is not None and answers is not None:
        logger.warning(
            "the teacher seems to have its classes in another order than the task: of the reward split it agrees with "
            "%.2f of the labels, and with %.2f if its classes are read as %s; take one that was fine-tuned on this "
            "task's labels (ackd finetune), or put its classes in the order %s",
            facts.agreement,
            (order[answers.argmax(1)] == labels).mean(),
            ", ".join(classes[one] for one in order),
            ", ".join(classes),
        )
    elif facts.agreement - facts.chance < USELESS:
        logger.warning(
            "teacher and labels agree on %.2f of the reward split, and chance is %.2f: the teacher seems to know "
            "nothing of this task; take a better one, or the labels alone (--policy labels)",
            facts.agreement,
            facts.chance,
        )
    elif facts.agreement < most:
        logger.warning(
            "the teacher agrees with %.2f of the labels of the reward split, and whoever always says %r with %.2f: "
            "take a better one, or the labels alone (--policy labels)",
            facts.agreement,
            classes[int(np.bincount(labels).argmax())],
            most,
        )
    elif facts.overtaken > 1:
        logger.warning(
            "the student can probably learn the labels better than the teacher knows them: the teacher agrees with "
            "%.2f of the reward split, and a linear probe on %s predicts held-out labels better, by %.1f standard "
            "errors; take a better teacher, the labels alone (--policy labels), or --policy default, which leaves such "
            "a teacher early",
            facts.agreement,
            "its own last states" if facts.teacher_lead > facts.student_lead else "the student's first states",
            max(facts.teacher_lead, facts.student_lead),
        )
