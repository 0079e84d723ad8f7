"""The official GLUE metrics, computed offline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

Values = NDArray[Any]


def _correlation(measure: Callable[[Values, Values], Any]) -> Callable[[Values, Values], float]:
    """Wraps a correlation: the result is 0 if one side is constant or a prediction is not finite."""

    def correlate(predicted: Values, labels: Values) -> float:
        if not np.isfinite(predicted).all() or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            value = float(measure(predicted.astype(np.float64), labels.astype(np.float64)).statistic)
        return value if np.isfinite(value) else 0.0

    return correlate


# Each takes predictions and labels, [N]; higher is better.
METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": lambda predicted, labels: float((predicted == labels).mean()),
    "f1": lambda predicted, labels: float(metrics.f1_score(labels, predicted, zero_division=0.0)),
    "matthews": lambda predicted, labels: float(metrics.matthews_corrcoef(labels, predicted)),
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
}
