from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, matthews_corrcoef

from ackd.tasks import GLUE, Split, Task


def task(name: str) -> Task:
    nothing = Split({}, np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), {})
    return Task(GLUE[name], nothing, nothing, {})


def logits(predictions: list[int]) -> NDArray[np.float64]:
    return np.eye(2)[predictions] * 3.0 - 1.0


# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
PREDICTED = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
LABELS = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])


def test_accuracy_and_f1_by_hand() -> None:
    found = task("mrpc").metrics(logits(PREDICTED), LABELS)
    assert list(found) == ["accuracy", "f1"]
    assert found["accuracy"] == pytest.approx(7 / 10)
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))


def test_f1_is_of_class_one() -> None:
    turned = task("mrpc").metrics(logits([1 - p for p in PREDICTED]), 1 - LABELS)
    assert turned["f1"] == pytest.approx(2 * 4 / (2 * 4 + 2 + 1))


def test_matthews_by_hand() -> None:
    found = task("cola").metrics(logits(PREDICTED), LABELS)
    assert found == {"matthews": pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))}


def test_correlations_by_hand() -> None:
    outputs, labels = np.array([[1.0], [2.0], [3.0], [10.0]]), np.array([2.0, 1.0, 4.0, 5.0], np.float32)
    found = task("stsb").metrics(outputs, labels)
    # deviations -3 -2 -1 6 and -1 -2 1 2; ranks 1 2 3 4 and 2 1 3 4
    assert found["pearson"] == pytest.approx((3 + 4 - 1 + 12) / math.sqrt(50 * 10))
    assert found["spearman"] == pytest.approx(1 - 6 * (1 + 1) / (4 * 15))


def test_tied_ranks_share_their_mean() -> None:
    found = task("stsb").metrics(np.array([[1.0], [1.0], [2.0]]), np.array([1.0, 2.0, 3.0], np.float32))
    # ranks 1.5 1.5 3 and 1 2 3: deviations -.5 -.5 1 and -1 0 1
    assert found["spearman"] == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@pytest.mark.parametrize("answer", [0, 1])
def test_constant_classes_score_zero_without_a_warning(answer: int) -> None:
    assert task("cola").metrics(logits([answer] * 10), LABELS) == {"matthews": 0.0}


@pytest.mark.parametrize("constant", [0.0, 2.5])
def test_constant_values_score_zero_without_a_warning(constant: float) -> None:
    found = task("stsb").metrics(np.full((4, 1), constant), np.arange(4, dtype=np.float32))
    assert found == {"pearson": 0.0, "spearman": 0.0}


def test_f1_without_any_positive_is_zero() -> None:
    assert task("mrpc").metrics(logits([0, 0]), np.zeros(2, np.int64)) == {"accuracy": 1.0, "f1": 0.0}


@pytest.mark.parametrize("classes", [2, 3])
def test_of_drawn_classes_they_are_those_of_scikit_learn_bit_for_bit(classes: int) -> None:
    rng = np.random.default_rng(classes)
    for count in (1, 2, 7, 300, 2000):
        labels, said = rng.integers(0, classes, (2, count))
        outputs = np.eye(classes)[said]
        assert task("cola").metrics(outputs, labels) == {"matthews": float(matthews_corrcoef(labels, said))}
        if classes == 2:
            assert task("mrpc").metrics(outputs, labels)["f1"] == float(f1_score(labels, said, zero_division=0.0))


def test_metrics_are_plain_floats() -> None:
    values: list[Any] = [*task("mrpc").metrics(logits(PREDICTED), LABELS).values()]
    assert all(type(value) is float for value in values)
