"""User-defined metrics: functions `compute_metrics` as for transformers' `Trainer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction

from ackd.errors import InputError

# Maps predictions [N, C] (regression: [N, 1]) and labels [N] to numbers by name. The first one is the main metric;
# for all metrics, higher is better.
ComputeMetrics: TypeAlias = Callable[[EvalPrediction], Mapping[str, float]]


def metrics_of(compute: ComputeMetrics, outputs: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
    """Computes the user's metrics from a model's outputs.

    Args:
        compute: the user's function.
        outputs: [N, C]: logits, or predictions for regression.
        labels: [N].

    Raises:
        InputError: if the function does not return finite numbers by name.
    """
    found = compute(EvalPrediction(predictions=outputs, label_ids=labels))
    if not isinstance(found, Mapping) or not found:
        raise InputError(
            f"compute_metrics answers {found!r:.80}: let it answer a dict from names to numbers, the main one first"
        )
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(
                f"compute_metrics answers {value!r:.80} for {name!r}: let it answer a finite number for any predictions"
            )
    return {name: float(value) for name, value in found.items()}


def metric_names(compute: ComputeMetrics, labels: NDArray[Any], classes: int) -> tuple[str, ...]:
    """The names of the user's metrics, from a call with perfect predictions of `labels`, [N].

    Raises:
        InputError: if `compute` is no valid function.
    """
    if not callable(compute) or isinstance(compute, type):
        raise InputError(
            f"compute_metrics is {compute!r:.80}: give a function from an EvalPrediction of transformers to a dict"
        )
    perfect = np.eye(classes)[labels] if classes > 1 else labels[:, None].astype(np.float64)
    return tuple(metrics_of(compute, perfect, labels))
