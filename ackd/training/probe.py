"""Facts about a setting before the first step: how well teacher and initial student predict the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge.masked import wide
from ackd.models import Meter, Model, run
from ackd.numerics import ridge
from ackd.numerics.precision import computing
from ackd.tasks import Split
from ackd.tasks.metrics import METRICS
from ackd.training.measuring import Ask
from ackd.types import Batch, OutputRequest, Outputs, Teacher

SAMPLE = 500  # most examples of a split for the probes; four times as many raised their accuracy by .01
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)  # ridge penalties; leave-one-out error selects one


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
    """Returns a function that computes the teacher's logits [B, C], joined with its features, in place of logits.

    Features are those of its last two layers; there are none if the teacher does not return hidden states.

    Args:
        teacher: the teacher.
        split: examples; the first one shows whether the teacher returns hidden states.
        device: device of the teacher.
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

    The targets are one-hot classes, or the labels if C = 1. Each example is predicted by a probe that is fitted to all
    others. If the states are not finite, the predictions are NaN. The probe is as accurate as logistic regression with
    a cross-validated penalty, in a tenth of the time.

    Args:
        states: [N, D].
        labels: [N].
        classes: C.

    References:
        Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016,
        https://arxiv.org/abs/1610.01644
    """
    if not np.isfinite(states).all():
        return np.full((len(states), classes), np.nan)
    spread = states.std(0)
    spread[spread == 0] = 1.0
    wanted = labels[:, None].astype(np.float64) if classes == 1 else np.eye(classes)[labels]
    return ridge.left_out(states / spread, wanted, STRENGTHS)


def lead(answers: NDArray[np.float64], others: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """How many standard errors `answers` predict the labels better than `others`; 0 if some values are not finite.

        sum_i g_i / sqrt(sum_i g_i^2),  g_i = r_i - s_i

    r_i and s_i are 1 if `answers` and `others` are correct on example i, else 0. For regression they are the negative
    squared errors after a linear fit to the labels.

    Args:
        answers: [N, C].
        others: [N, C].
        labels: [N].
    """
    if not (np.isfinite(answers).all() and np.isfinite(others).all()):
        return 0.0
    return standard_errors(_right(answers, labels) - _right(others, labels))


def standard_errors(gains: NDArray[np.float64]) -> float:
    """How many standard errors the mean of gains [N] is above 0."""
    return float(gains.sum() / max(np.sqrt(np.square(gains).sum()), 1e-12))


def _right(answers: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    if answers.shape[1] > 1:
        return np.asarray(answers.argmax(1) == labels, np.float64)
    given, targets = answers[:, 0] - answers[:, 0].mean(), labels - labels.mean()
    slope = max(float(given @ targets), 0.0) / max(float(given @ given), 1e-12)
    return np.asarray(-np.square(targets - slope * given))


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
