"""The official GLUE metrics, computed offline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


def _accuracy(predicted: Values, labels: Values) -> float:
    return float((predicted == labels).mean())


def _f1(predicted: Values, labels: Values) -> float:
    """F1 of class 1: `2 TP / (P + T)` with P predicted and T true examples of it; 0 if both are 0."""
    hits, ones = ((predicted == 1) & (labels == 1)).sum(), (predicted == 1).sum() + (labels == 1).sum()
    return float(2.0 * hits / ones) if ones else 0.0


def _matthews(predicted: Values, labels: Values) -> float:
    """Matthews correlation `(n c - t p) / sqrt((n^2 - p p) (n^2 - t t))`; 0 if labels or predictions are constant.

    n is the number of examples and c of correct ones; the vectors t and p count each class in labels and predictions.

    References:
        Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004,
        https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    classes = int(max(predicted.max(), labels.max())) + 1
    p, t = (np.bincount(one, minlength=classes).astype(np.float64) for one in (predicted, labels))
    right, count = float((predicted == labels).sum()), float(len(labels))
    spread = (count**2 - p @ p) * (count**2 - t @ t)
    return float((right * count - t @ p) / np.sqrt(spread)) if spread else 0.0


def _correlation(name: str) -> Callable[[Values, Values], float]:
    """A correlation of `scipy.stats`: the result is 0 if one side is constant or a prediction is not finite."""

    def correlate(predicted: Values, labels: Values) -> float:
        from scipy import stats  # slow to import, and most tasks have classes

        if not np.isfinite(predicted).all() or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            measure = getattr(stats, name)
            value = float(measure(predicted.astype(np.float64), labels.astype(np.float64)).statistic)
        return value if np.isfinite(value) else 0.0

    return correlate


# Each takes predictions and labels, [N]; higher is better.
METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
}
