"""Computes a model's logits on a split, and the metrics of logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.costs import CostTracker
from ackd.distributed.process_group import ALONE, Group
from ackd.knowledge import token_sums
from ackd.tasks import Split, Task, sts
from ackd.types import NEG_LOSS, Batch, EvalResult, OutputRequest, Outputs

Ask = Callable[[Batch, OutputRequest, CostTracker], Outputs]

ROUNDING = 1e-12  # smaller differences, relative to the largest number, count as equal
LOGITS = 2**25  # most logits of a language model in one batch of an evaluation


def answers(
    ask: Ask, split: Split, device: torch.device, vocabulary: int, group: Group = ALONE
) -> tuple[NDArray[np.float64], float]:
    """[N, C] logits in the split's order, read from the device once, and the FLOPs of this process.

    For a language model, [N, 3] `token_sums`, because its logits are too many to keep; for S models side by side, whose
    logits are [B, S, n, V], it is [N, 3 S].
    """
    most = 256 if device.type == "cuda" else 32  # small batches need less padding
    if split.language:
        most = max(min(most, LOGITS // int(split.lengths.max() * vocabulary)), 1)
    groups = list(split.by_length(most))[group.rank :: group.size]
    outputs, spent = [], CostTracker()
    with torch.no_grad():
        for indices in groups:
            batch = split.batch(indices).to(device)
            logits = ask(batch, OutputRequest(logits=True), spent).logits
            assert logits is not None
            outputs.append(_sums(logits, batch.labels) if split.language else logits)
    mine = (np.concatenate(groups), torch.cat(outputs).double().cpu().numpy()) if groups else None
    known = [one for one in group.gather(mine) if one is not None]
    found = np.empty((len(split), known[0][1].shape[-1]))
    for indices, values in known:
        found[indices] = values
    return found, sum(spent.flops.values())


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    each = [logits] if logits.dim() == 3 else logits.unbind(1)
    return torch.cat([token_sums(one, labels) for one in each], 1)


def correlation(one: NDArray[np.float64], other: NDArray[np.float64], axis: int) -> float:
    """Pearson's correlation of all entries of two [N, C], centred over `axis`; 0 if one of them is constant."""
    return float((_unit(one, axis) * _unit(other, axis)).sum().clip(-1.0, 1.0))


def _unit(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Values less their mean, divided by their norm; zeros if they are constant to within rounding."""
    scaled = values / (np.abs(values).max() or 1.0)  # so that no square overflows
    centred = scaled - scaled.mean(axis, keepdims=True)
    norm = np.linalg.norm(centred)
    constant = norm <= ROUNDING * np.sqrt(values.size)
    return np.zeros_like(centred) if constant else centred / norm


def eval_result(
    task: Task, given: NDArray[np.float64], split: Split, theirs: NDArray[np.float64] | None = None
) -> EvalResult:
    """Computes the metrics of a student's logits on a split.

    Args:
        task: the task of the split.
        given: logits as returned by `answers`.
        split: the examples.
        theirs: the teacher's logits; if None or not finite, the comparisons with the teacher are 0.
    """
    if not np.isfinite(given).all():
        return EvalResult(loss=float("nan"), score=float("nan"))
    scores = task.metrics(given, split.labels)
    score = scores[task.spec.metrics[0]]
    if task.spec.language:
        return EvalResult(-scores[NEG_LOSS], score, scores)
    if theirs is not None and not np.isfinite(theirs).all():
        theirs = None
    if task.spec.sentences:
        return _embedded(given, split.labels, theirs, score, scores)
    if task.spec.regression:
        loss = float(np.square(given[:, 0] - split.labels).mean())
        apart = 0.0 if theirs is None else float(np.square(given - theirs).mean())
        values = split.labels[:, None].astype(np.float64)
        return EvalResult(loss, score, scores, 0.0, apart, *_correlations(given, theirs, values, axis=0))
    log_p = _log_softmax(given)
    right = log_p[np.arange(len(given)), split.labels]
    loss, sure = -float(right.mean()), float(np.exp(right).mean())
    apart = 0.0 if theirs is None else _divergence(_log_softmax(theirs), log_p)
    hot = np.eye(given.shape[1])[split.labels]
    return EvalResult(loss, score, scores, sure, apart, *_correlations(given, theirs, hot, axis=1))


def _embedded(
    given: NDArray[np.float64],
    labels: NDArray[Any],
    theirs: NDArray[np.float64] | None,
    score: float,
    scores: Mapping[str, float],
) -> EvalResult:
    """The result of embeddings [N, d], compared with other embeddings [N, d] or with the scores of their pairs [N]."""
    if labels.ndim == 1:
        cosines, targets = sts.pair_cosines(given), labels[::2] / (np.abs(labels).max() or 1.0)
        return EvalResult(float(np.square(cosines - targets).mean()), score, scores)
    ours, targets = sts.similarities(given), sts.similarities(labels)
    difference = 0.0 if theirs is None else float(np.square(given - theirs).mean())
    return EvalResult(
        float(np.square(given - labels).mean()),
        score,
        scores,
        float(sts.cosines(given, labels).mean()),
        difference,
        0.0 if theirs is None else correlation(ours[:, None], sts.similarities(theirs)[:, None], 0),
        correlation(ours[:, None], targets[:, None], 0),
    )


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    normalised: NDArray[np.float64] = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return normalised


def _divergence(log_q: NDArray[np.float64], log_p: NDArray[np.float64]) -> float:
    """The mean over examples of `KL(q || p)`."""
    return float((np.exp(log_q) * (log_q - log_p)).sum(1).mean())


def _correlations(
    given: NDArray[np.float64], theirs: NDArray[np.float64] | None, labels: NDArray[np.float64], *, axis: int
) -> tuple[float, float]:
    """Correlations of logits with the teacher's (0 if None) and with the labels; all arrays are [N, C]."""
    return 0.0 if theirs is None else correlation(given, theirs, axis), correlation(given, labels, axis)
