"""The results of a federation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.costs import CostTracker
from ackd.federation.clients import shares
from ackd.federation.federated import Federation, Weights
from ackd.training.measuring import eval_result


def federated_metrics(
    federation: Federation,
    initial: Weights,
    own: Sequence[Weights],
    ends: Mapping[str, Weights],
    rows: Sequence[Mapping[str, Any]],
    target: float | None,
    costs: CostTracker,
) -> dict[str, Any]:
    """The results of a federation; only this function reads dev.

    Args:
        federation: the federation.
        initial: the starting model.
        own: the clients' own models.
        ends: the final model of each start.
        rows: the rows of all rounds, from `ackd.federation.rounds`.
        target: score in percent; the rounds until this score are counted.
        costs: receives the costs.
    """
    task, spec = federation.task, federation.task.spec
    name, dev = next(iter(task.dev.items()))

    def asked(weights: Weights) -> NDArray[np.float64]:
        return federation.answers(weights, dev, "report", costs)

    before, locals_ = asked(initial), [asked(weights) for weights in own]
    initial_score = 100 * eval_result(federation.task, before, dev).score
    labels = [task.train.labels[part] for part in federation.parts]
    owned = [] if spec.regression else [shares(those, spec.num_labels) for those in labels]
    starts = {}
    for start, weights in ends.items():
        after = asked(weights)
        score = 100 * eval_result(federation.task, after, dev).score
        classes = {} if spec.regression else _by_class(before, after, locals_, owned, dev.labels)
        starts[start] = {
            **_rounds(start, [row for row in rows if row["start"] == start], target),
            "dev_score": round(score, 4),
            "gain": round(score - initial_score, 4),
            **dict.fromkeys(("forgetting", "positive_flips", "negative_flips")),
            **classes,
        }
    return {
        "task": spec.name,
        "metric": spec.metrics[0],
        "policy": "federated",
        "dev": name,
        "dev_score": list(starts.values())[-1]["dev_score"],
        "initial_dev_score": round(initial_score, 4),
        "client_dev_scores": [round(100 * eval_result(federation.task, mine, dev).score, 4) for mine in locals_],
        "client_examples": [len(part) for part in federation.parts],
        "client_shares": [[round(float(share), 4) for share in those] for those in owned],
        "target": target,
        "model_bytes": federation.size,
        "seed": federation.seed,
        "starts": starts,
    }


def _rounds(start: str, rows: Sequence[Mapping[str, Any]], target: float | None) -> dict[str, Any]:
    """The results of the rounds from one start."""
    scores = [row["score"] for row in rows]
    reached = None if target is None else rounds_to(scores, target)
    return {
        "score": scores[-1],
        "loss": rows[-1]["loss"],
        "start_score": scores[0],
        "rounds_to_target": reached,
        "exchanges_to_target": None if reached is None else reached + (start == "distilled"),
        "bytes": rows[-1]["bytes"],
    }


def _by_class(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    locals_: Sequence[NDArray[np.float64]],
    owned: Sequence[NDArray[np.float64]],
    labels: NDArray[Any],
) -> dict[str, float | None]:
    """Forgetting, and the shares of predictions that became right or wrong, in percent."""
    now = after.argmax(1)
    pairs = [
        (on_own_classes(mine.argmax(1), labels, kinds), on_own_classes(now, labels, kinds))
        for mine, kinds in zip(locals_, owned, strict=True)
    ]
    drops = [100 * (mine - then) for mine, then in pairs if mine is not None and then is not None]
    positive, negative = flips(before.argmax(1), now, labels)
    return {
        "forgetting": round(sum(drops) / len(drops), 4) if drops else None,
        "positive_flips": round(100 * positive, 4),
        "negative_flips": round(100 * negative, 4),
    }


def rounds_to(scores: Sequence[float], target: float) -> int | None:
    """The first round with a score of at least the target; `scores` start with round 0. None if there is none."""
    return next((turn for turn, score in enumerate(scores) if score >= target), None)


def flips(before: NDArray[Any], after: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """The share of examples that changed from wrong to right, and the share from right to wrong.

    Args:
        before: earlier predictions, [N].
        after: later predictions, [N].
        labels: the labels, [N].
    """
    was, now = before == labels, after == labels
    return float((~was & now).mean()), float((was & ~now).mean())


def on_own_classes(answered: NDArray[Any], labels: NDArray[Any], own: NDArray[np.float64]) -> float | None:
    """The accuracy on a client's classes, `sum_c own_c acc_c` over classes in the labels; None without any.

    Args:
        answered: the predictions, [N].
        labels: the labels, [N].
        own: the client's share of each class, [C].
    """
    there = np.flatnonzero((shares(labels, len(own)) > 0) & (own > 0))
    if not len(there):
        return None
    accuracies = np.array([(answered[labels == kind] == kind).mean() for kind in there])
    return float(accuracies @ own[there] / own[there].sum())
