"""Warnings before the first step about a teacher that may harm the student or not help it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.mdp.episode import Facts
from ackd.training.probe import standard_errors

logger = logging.getLogger("ackd")

SURE = 3.0  # least advantage of another order of classes, in standard errors
USELESS = 0.05  # agreement above chance that a reward split of 256 examples can reach by accident


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

    predicted, classes = answers.argmax(1), answers.shape[1]
    if not np.isfinite(answers).all() or classes > len(labels):
        return None

    def chosen(indices: slice) -> NDArray[np.int64]:
        counts = np.zeros((classes, classes))
        np.add.at(counts, (predicted[indices], labels[indices]), 1)
        order: NDArray[np.int64] = linear_sum_assignment(counts + np.eye(classes) / 2, maximize=True)[1]
        return order  # on a tie a class keeps its place

    halves = slice(0, None, 2), slice(1, None, 2)
    orders = [chosen(half) for half in halves]
    read = np.zeros(len(labels), np.bool_)
    for half, order in zip(halves, orders[::-1], strict=True):
        read[half] = order[predicted[half]] == labels[half]
    others = predicted == labels, labels == np.bincount(labels).argmax()
    better = all(standard_errors(read * 1.0 - other) > SURE for other in others)
    return orders[0] if better and np.array_equal(orders[0], orders[1]) else None


def warn(facts: Facts, answers: NDArray[np.float64] | None, labels: NDArray[Any], classes: Sequence[str]) -> None:
    """Logs a warning if the teacher may harm the student or not help it.

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
            "the teacher seems to have its classes in another order than the task: its accuracy on the reward split is "
            "%.2f, and %.2f if its classes are read as %s; use a teacher that was fine-tuned on this task's labels "
            "(ackd finetune), or put its classes in the order %s",
            facts.agreement,
            (order[answers.argmax(1)] == labels).mean(),
            ", ".join(classes[one] for one in order),
            ", ".join(classes),
        )
    elif facts.agreement - facts.chance < USELESS:
        logger.warning(
            "teacher and labels agree on %.2f of the reward split, and chance is %.2f: the teacher seems not to be "
            "trained on this task; use a better teacher, or only the labels (--policy labels)",
            facts.agreement,
            facts.chance,
        )
    elif facts.agreement < most:
        logger.warning(
            "the teacher agrees with %.2f of the labels of the reward split, and always predicting %r with %.2f: use a "
            "better teacher, or only the labels (--policy labels)",
            facts.agreement,
            classes[int(np.bincount(labels).argmax())],
            most,
        )
    elif facts.overtaken > 1:
        logger.warning(
            "the student can probably learn the labels better than the teacher predicts them: the teacher agrees with "
            "%.2f of the reward split, and a linear probe on %s predicts held-out labels better, by %.1f standard "
            "errors; use a better teacher, only the labels (--policy labels), or --policy default, which drops such a "
            "teacher early",
            facts.agreement,
            "its own last states" if facts.teacher_lead > facts.student_lead else "the student's initial states",
            max(facts.teacher_lead, facts.student_lead),
        )
