"""Facts about a setting before the first step: how well teacher and initial student predict the labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.knowledge.masked import wide
from ackd.mdp.episode import OVERTAKEN, TRUSTED, Facts
from ackd.models import Meter, Model, run
from ackd.numerics.precision import computing
from ackd.numerics.ridge import ridge
from ackd.tasks import Split
from ackd.tasks.metrics import METRICS
from ackd.training.measuring import Ask
from ackd.types import Batch, OutputRequest, Outputs

logger = logging.getLogger("ackd")

SAMPLE = 500  # training examples of the probe's fit; four times as many raised its accuracy by .01
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)  # ridge penalties; leave-one-out error selects one

SURE = 3.0  # standard errors by which another order of classes has to be better
USELESS = 0.05  # agreement above chance that a reward split of 256 examples can reach by accident


def last_states(model: Model) -> OutputRequest:
    """The output of a model's last layer."""
    return OutputRequest(hidden=frozenset({model.config.num_hidden_layers - 1}))


def sampled(split: Split) -> Split:
    """At most `SAMPLE` examples of a split, evenly spaced and always the same."""
    count = min(SAMPLE, len(split))
    return split.select(np.arange(count) * len(split) // count)


def reading(model: Model, meter: Meter, precision: Precision) -> Ask:
    """Returns a function that computes features in place of logits, for the probe.

    Features are the mean over tokens and the first token of `last_states`, [B, 2d].
    """
    needs = last_states(model)
    (field,) = needs.fields

    def ask(batch: Batch, _: OutputRequest, costs: CostTracker) -> Outputs:
        costs.add_flops("student", meter(needs).forward(*batch.shape))
        with computing(precision, batch.mask.device):
            states = wide(run(model, batch, needs)[field])
        mask = batch.mask[..., None]
        mean = states.where(mask.bool(), 0.0).sum(1) / mask.sum(1)
        return Outputs(logits=torch.cat([mean, states[:, 0]], 1))

    return ask


def probed(
    states: NDArray[np.float64], labels: NDArray[Any], unseen: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Predictions of a linear probe, [R, C] ([R, 1] for regression): ridge regression on standardised states.

        W = argmin sum_i |y_i - W x_i - b|^2 + a |W|^2,  y one-hot classes, or the labels themselves where C = 1

    The penalty a is the one of `STRENGTHS` with the smallest leave-one-out squared error, which has a closed form. If
    the states are not finite, the predictions are NaN. The probe is as accurate as logistic regression with a
    cross-validated penalty, in a tenth of the time.

    Args:
        states: [N, D], states of the examples to fit.
        labels: [N], labels of the examples to fit.
        unseen: [R, D], states of the examples to predict.
        classes: C.

    References:
        Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016,
        https://arxiv.org/abs/1610.01644
    """
    if not (np.isfinite(states).all() and np.isfinite(unseen).all()):
        return np.full((len(unseen), classes), np.nan)
    mean, spread = states.mean(0), states.std(0)
    spread[spread == 0] = 1.0
    wanted = labels[:, None].astype(np.float64) if classes == 1 else np.eye(classes)[labels]
    weights, intercept = ridge((states - mean) / spread, wanted, STRENGTHS)
    return np.asarray((unseen - mean) / spread @ weights + intercept).reshape(len(unseen), classes)


def fit_flops(examples: int, features: int) -> float:
    """FLOPs of fitting the probe: a product of the N x D states, and an eigendecomposition of size m.

        2 N D m + 9 m^3,  m = min(N, D)

    References:
        Golub & Van Loan, Matrix Computations, 4th ed. 2013, section 8.3
    """
    smaller = min(examples, features)
    return 2.0 * examples * features * smaller + 9.0 * smaller**3


def agreement(answers: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """The accuracy of [R, C] answers; for C = 1, Pearson's correlation with the labels, at least 0.

    0 if an answer is not finite.
    """
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
    larger = labels == np.bincount(labels).argmax()
    surely = _surely(read, said == labels) and _surely(read, larger)
    return orders[0] if surely and np.array_equal(orders[0], orders[1]) else None


def _surely(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether `one`, [R], is true more often than `other` by `SURE` standard errors of a sign test."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return bool(gained - lost > SURE * np.sqrt(gained + lost))


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
    elif facts.overtaken > OVERTAKEN and facts.agreement > TRUSTED:
        logger.warning(
            "the student can probably learn the labels better than the teacher knows them: on the reward split a "
            "linear probe on its first states reaches %.2f, and the teacher %.2f; take a better teacher, or the "
            "labels alone (--policy labels)",
            facts.probe,
            facts.agreement,
        )
    elif facts.agreement < most:
        logger.warning(
            "the teacher agrees with %.2f of the labels of the reward split, and whoever always says %r with %.2f: "
            "take a better one, or the labels alone (--policy labels)",
            facts.agreement,
            classes[int(np.bincount(labels).argmax())],
            most,
        )
