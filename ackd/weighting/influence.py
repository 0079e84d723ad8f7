"""The influence of examples on others through the last layer, and distillation of the most helpful ones.

This is a substitute for the data selection of label revision: the paper selects examples by influence, but its
estimator could not be found.

References:
    Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, 2024,
    https://arxiv.org/abs/2404.03693
    Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, 2020,
    https://arxiv.org/abs/2002.08484, for inner products of gradients
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.split import Split
from ackd.types import LABELS, Batch, Knowledge, OutputRequest, Outputs, Teacher
from ackd.weighting.weighting import Answers, Weighting

Indices = NDArray[np.int64]


def influence(
    teacher: Teacher, split: Split, held: Indices, *, device: torch.device, costs: CostTracker
) -> NDArray[np.float64]:
    """First-order decrease of the held-out loss by a gradient step on each example, [N].

        s_i = (p_i - e_y)^T M h_i,  M = mean over held-out j of (p_j - e_y) h_j^T

    This is the inner product of i's cross-entropy gradient with the mean held-out gradient, for the weights of a last
    layer without bias: p = softmax(W h). A held-out example is left out of its own M. h is the first token's vector in
    the last transformer layer, which every model has; most heads have one more layer in between.

    Args:
        teacher: the plain teacher that gives p and h, without revision by the labels.
        split: the training examples.
        held: [H], indices of the held-out examples.
        device: device of the teacher.
        costs: receives the costs of one teacher pass over all examples.

    Raises:
        InputError: if nothing is held out.
    """
    if not len(held):
        raise InputError("no example is held out to measure an influence on: hold out a larger share")
    known = list(_gradients(teacher, split, held, device, costs))
    total = torch.stack([errors.T @ features for _, errors, features in known]).sum(0)
    scores = np.empty(len(split))
    for indices, errors, features in known:
        own = errors.square().sum(1) * features.square().sum(1)
        others = ((errors @ total * features).sum(1) - own) / max(len(held) - 1, 1)
        scores[indices] = others.cpu().numpy() if len(held) > 1 else 0.0
    rest = np.setdiff1d(np.arange(len(split)), held)
    for indices, errors, features in _gradients(teacher, split, rest, device, costs):
        scores[indices] = ((errors @ total * features).sum(1) / len(held)).cpu().numpy()
    return scores


def _gradients(
    teacher: Teacher, split: Split, indices: Indices, device: torch.device, costs: CostTracker
) -> Iterator[tuple[Indices, Tensor, Tensor]]:
    """Groups of the examples at `indices`: their indices, p - e_y [B, C] and h [B, d], in float64."""
    if not len(indices):
        return
    last = teacher.shape.layers - 1
    for group in split.select(indices).by_length(256 if device.type == "cuda" else 32):
        batch = split.batch(indices[group]).to(device)
        with torch.no_grad():
            answer = teacher(batch, OutputRequest(logits=True, cls=frozenset({last})), costs)
        assert answer.logits is not None
        errors = answer.logits.double().softmax(-1) - F.one_hot(batch.labels, teacher.shape.classes)
        yield indices[group], errors, answer.cls[last].double()


@dataclass(frozen=True)
class Distilled(Weighting):
    """Every knowledge type on a fixed part of the training examples; the labels on all examples.

        L = 1/B [ w_0 sum over all CE_i + a sum over the chosen L_i ]

    The loss is divided by the batch size B, not by the number of chosen examples.

    Args:
        ids: [K] int64, the chosen examples' ids, in ascending order.
        share: K / N, with N training examples.
        rest: take the labels only on the other examples, for losses that contain the label loss of the chosen ones.
    """

    ids: Tensor
    share: float
    rest: bool = False

    @classmethod
    def best(cls, split: Split, scores: NDArray[np.float64], keep: float, *, rest: bool = False) -> Distilled:
        """The share `keep` of a split with the largest scores, at least one example."""
        count = max(int(len(split) * keep + 1e-9), 1)  # 0.29 * 100 is 28.999...
        chosen = np.argsort(-scores, kind="stable")[:count]
        return cls(torch.from_numpy(np.sort(split.ids[chosen])), count / len(split), rest)

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        """The expected numbers, from the share of chosen examples in the whole split."""
        return {one.name: round(self.share * size) for one in terms}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        """The chosen examples of the batch, the same for each loss."""
        rows = self._chosen(batch).nonzero().flatten().to(batch.labels.device)
        return {one.name: rows for one in terms}

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The chosen share of the batch, which turns a mean over the chosen examples into a sum / B."""
        chosen = self._chosen(answers.batch)
        share = float(chosen.double().mean())
        weights = {one.name: torch.full_like(answers.losses[one.name], share) for one in terms}
        if self.rest:
            weights[LABELS] = (~chosen).to(answers.losses[LABELS])
        return weights

    def _chosen(self, batch: Batch) -> Tensor:
        """[B] bool, on the host."""
        indices = torch.searchsorted(self.ids, batch.ids).clamp_max(len(self.ids) - 1)
        return self.ids[indices] == batch.ids
