"""Metrics of sentence embeddings, on scored pairs of sentences or in comparison with other embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.tasks.metrics import METRICS

Values = NDArray[np.float64]

RELEVANT = 0.8  # pairs with at least this share of the largest score are queries: 4 of 5 in STS-B
COMPARED = 1000  # most embeddings for comparisons of all pairs
ROUNDING = 1e-6  # rounding error of cosines


def unit(embeddings: NDArray[Any]) -> Values:
    """The embeddings [N, d] divided by their lengths; zeros stay zeros."""
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    found: Values = embeddings / np.where(lengths > 0, lengths, 1.0)
    return found


def cosines(one: NDArray[Any], other: NDArray[Any]) -> Values:
    """[N], the cosine of each row of [N, d] and the same row of the other matrix."""
    found: Values = (unit(one) * unit(other)).sum(1)
    return found


def pair_cosines(embeddings: Values) -> Values:
    """[N], the cosines of consecutive embeddings in [2N, d]."""
    return cosines(embeddings[::2], embeddings[1::2])


def similarities(embeddings: NDArray[Any]) -> Values:
    """The cosines of all pairs of embeddings [N, d], each pair once; for N > `COMPARED`, of evenly spaced rows."""
    count = min(COMPARED, len(embeddings))
    rows = unit(embeddings[np.arange(count) * len(embeddings) // max(count, 1)])
    found: Values = (rows @ rows.T)[np.triu_indices(count, 1)]
    return found


def pair_metrics(embeddings: Values, scores: NDArray[Any]) -> dict[str, float]:
    """Metrics of semantic textual similarity and of retrieval, on scored pairs.

        spearman  the rank correlation of the pairs' cosines with their scores
        recall@1  share of the queries that are nearest to the second sentence of their pair, among all second sentences
        mrr       mean over the queries of 1 / rank of this second sentence

    Queries are the first sentences of pairs with at least 4/5 of the largest score. Equal cosines share the best rank.

    Args:
        embeddings: [2N, d], the first and the second sentence of each pair.
        scores: [2N], the score of each pair, twice.

    References:
        Cer et al., SemEval-2017 Task 1: Semantic Textual Similarity, 2017, https://aclanthology.org/S17-2001
    """
    targets = scores[::2].astype(np.float64)
    first, second = unit(embeddings[::2]), unit(embeddings[1::2])
    queries = np.flatnonzero(targets >= RELEVANT * targets.max())
    to_all = first[queries] @ second.T
    to_own = np.take_along_axis(to_all, queries[:, None], 1)
    ranks = 1 + (to_all > to_own + ROUNDING).sum(1)
    spearman = METRICS["spearman"]((first * second).sum(1), targets)
    return {"spearman": spearman, "recall@1": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}


def agreement(embeddings: Values, others: NDArray[Any]) -> dict[str, float]:
    """The rank correlation between the cosines of all pairs of embeddings [N, d] and those of others [N, e]."""
    return {"spearman": METRICS["spearman"](similarities(embeddings), similarities(others))}
