"""Measures of sentence embeddings: on pairs of sentences with scores, and beside other embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.tasks.metrics import METRICS

Values = NDArray[np.float64]

RELEVANT = 0.8  # pairs with at least this share of the largest score belong together: 4 of 5 in STS-B
COMPARED = 1000  # most embeddings whose pairs are compared
ROUNDING = 1e-6  # by which the cosines of equal sentences may differ


def unit(embeddings: NDArray[Any]) -> Values:
    """The embeddings [N, d] divided by their lengths; zeros stay zeros."""
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    found: Values = embeddings / np.where(lengths > 0, lengths, 1.0)
    return found


def cosines(one: NDArray[Any], other: NDArray[Any]) -> Values:
    """[N], the cosine of each row of [N, d] to the same row of the other."""
    found: Values = (unit(one) * unit(other)).sum(1)
    return found


def pair_cosines(embeddings: Values) -> Values:
    """[N], the cosine of each pair's two embeddings, which follow each other in [2N, d]."""
    return cosines(embeddings[::2], embeddings[1::2])


def similarities(embeddings: NDArray[Any]) -> Values:
    """The cosines of all pairs of embeddings [N, d], each pair once; of at most `COMPARED`, evenly spaced."""
    count = min(COMPARED, len(embeddings))
    rows = unit(embeddings[np.arange(count) * len(embeddings) // max(count, 1)])
    found: Values = (rows @ rows.T)[np.triu_indices(count, 1)]
    return found


def pair_metrics(embeddings: Values, scores: NDArray[Any]) -> dict[str, float]:
    """Semantic textual similarity and retrieval, from pairs of sentences.

        spearman  the rank correlation of the pairs' cosines with their scores
        recall@1  share of the queries whose own second sentence is nearest among the second sentences of all pairs
        mrr       mean over the queries of 1 / rank of their own second sentence

    Queries are the first sentences of pairs with at least 4/5 of the largest score. Equal cosines share the best rank.

    Args:
        embeddings: [2N, d], each pair's first and second sentence.
        scores: [2N], each pair's score, twice.

    References:
        Cer et al., SemEval-2017 Task 1: Semantic Textual Similarity, 2017, https://aclanthology.org/S17-2001
    """
    wanted = scores[::2].astype(np.float64)
    first, second = unit(embeddings[::2]), unit(embeddings[1::2])
    queries = np.flatnonzero(wanted >= RELEVANT * wanted.max())
    near = first[queries] @ second.T
    own = np.take_along_axis(near, queries[:, None], 1)
    ranks = 1 + (near > own + ROUNDING).sum(1)
    spearman = METRICS["spearman"]((first * second).sum(1), wanted)
    return {"spearman": spearman, "recall@1": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}


def agreement(embeddings: Values, others: NDArray[Any]) -> dict[str, float]:
    """The rank correlation of the cosines of all pairs of embeddings [N, d] with those of others [N, e]."""
    return {"spearman": METRICS["spearman"](similarities(embeddings), similarities(others))}
