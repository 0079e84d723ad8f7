"""Difference sampling: chooses the chunks that a large model predicts well and a small one does not."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ackd.corpora.scores import Scores
from ackd.errors import InputError

Normalise = Literal["mean", "sum"]


def differences(
    teacher: Scores, reference: Scores, predicted: NDArray[np.int64], normalise: Normalise = "mean"
) -> NDArray[np.float64]:
    """[N], the difference of the losses of reference and teacher on each chunk.

        score_i = loss_R,i - loss_T,i = 1/n_i log p_T(x_i) / p_R(x_i),  or n_i times that

    Args:
        teacher: the large model's losses.
        reference: the small model's.
        predicted: [N], n_i, the number of predicted tokens of each chunk.
        normalise: `mean` as in the published code, or `sum` as in the paper's formula.

    Raises:
        InputError: if the scores belong to different corpora, or the number of chunks differs.
    """
    if teacher.header.tokenizer != reference.header.tokenizer:
        raise InputError(
            "the reference was scored with another tokenizer than the teacher: losses of different tokens cannot be "
            "compared; train a reference with the teacher's tokenizer"
        )
    if teacher.header.corpus != reference.header.corpus:
        raise InputError("the scores of the teacher and of the reference are of two corpora: score one with both")
    if not len(teacher.values) == len(reference.values) == len(predicted):
        raise InputError(
            f"there are {len(teacher.values)} scores of the teacher and {len(reference.values)} of the reference, and "
            f"the corpus has {len(predicted)} chunks: score this corpus with both"
        )
    scores = reference.values.astype(np.float64) - teacher.values
    return scores * predicted if normalise == "sum" else scores


def kept(
    scores: NDArray[np.float64], ratio: float, allowed: NDArray[np.bool_] | None = None, *, seed: int | None = None
) -> NDArray[np.int64]:
    """The indices of the int(ratio N) largest scores, in corpus order; for equal scores the earlier chunk is kept.

    Args:
        scores: [N].
        ratio: share of the allowed chunks to keep, above 0 and at most 1.
        allowed: [N], True for chunks that may be kept; only these count for N; all if None.
        seed: if given, keep the same number of random chunks instead, as a control.

    Raises:
        InputError: if the ratio is out of range or keeps no chunk, or a score is not finite.
    """
    if not 0 < ratio <= 1:
        raise InputError(f"a ratio of {ratio} cannot be kept: give one above 0, at most 1")
    if not np.isfinite(scores).all():
        raise InputError(f"the score of chunk {int(np.flatnonzero(~np.isfinite(scores))[0])} is no finite number")
    indices = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    count = int(ratio * len(indices) + 1e-9)  # 0.29 * 100 is 28.999...
    if not count:
        raise InputError(f"a ratio of {ratio} keeps none of {len(indices)} chunks: give a larger one")
    if seed is not None:
        return np.sort(np.random.default_rng(seed).choice(indices, count, replace=False))
    order = np.argsort(-scores[indices], kind="stable")[:count]
    chosen: NDArray[Any] = np.sort(indices[order])
    return chosen
