"""Influence against each example's own gradient, taken by autograd, and distilling some examples alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import Logits
from ackd.tasks import Split
from ackd.types import LABELS, Batch, ModelDims, OutputRequest, Outputs
from ackd.weighting.influence import Distilled, influence
from ackd.weighting.scores import TopFraction
from ackd.weighting.weighting import Answers, PickedRows, Together, Weighting

SIZE, WIDTH, CLASSES = 41, 5, 3
IDS = np.random.default_rng(3).permutation(SIZE) + 100


class Linear:
    """A teacher whose last layer is all it has: features by id, logits = W h."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(SIZE + 100, WIDTH, generator=generator, dtype=torch.float64)
        self.weights = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
        self.shape = ModelDims(2, WIDTH, 1, CLASSES, 50)
        self.fingerprint = "linear"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        assert needs == OutputRequest(logits=True, cls=frozenset({1}))
        costs.teacher_queries += len(batch.ids)
        features = self.features[batch.ids]
        return Outputs(features @ self.weights.T, cls={1: features})

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return 0.0

    def gradients(self, split: Split) -> Tensor:
        """[N, C d], of each example's own cross-entropy."""
        rows = []
        for example, label in zip(split.ids, split.labels, strict=True):
            weights = self.weights.clone().requires_grad_()
            loss = F.cross_entropy((weights @ self.features[example])[None], torch.tensor([label]))
            rows.append(torch.autograd.grad(loss, weights)[0].flatten())
        return torch.stack(rows)


@pytest.fixture
def split() -> Split:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, SIZE)
    tokens, offsets = rng.integers(5, 50, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
    return Split({"input_ids": tokens}, offsets, rng.integers(0, CLASSES, SIZE), IDS, {"input_ids": 0})


@pytest.mark.parametrize("held", [[0], [3, 9], [3, 9, 31], list(range(SIZE))])
def test_it_is_the_inner_product_of_gradients(split: Split, held: list[int]) -> None:
    teacher, costs = Linear(), CostTracker()
    scores = influence(teacher, split, np.array(held), device=torch.device("cpu"), costs=costs)
    gradients = teacher.gradients(split)
    for i in range(SIZE):
        others = [j for j in held if j != i]
        mean = gradients[others].mean(0) if others else torch.zeros(CLASSES * WIDTH).double()
        assert scores[i] == pytest.approx(float(gradients[i] @ mean), rel=1e-9, abs=1e-12)
    assert costs.teacher_queries == SIZE


def test_a_step_on_what_scores_high_lowers_the_held_out_loss(split: Split) -> None:
    teacher, held = Linear(), np.arange(20)
    scores = influence(teacher, split, held, device=torch.device("cpu"), costs=CostTracker())
    features, labels = teacher.features[split.ids], torch.from_numpy(split.labels)

    def loss(weights: Tensor) -> float:
        return float(F.cross_entropy(features[held] @ weights.T, labels[held]))

    gradients = teacher.gradients(split).view(SIZE, CLASSES, WIDTH)
    for i in range(20, SIZE):
        gained = loss(teacher.weights) - loss(teacher.weights - 1e-6 * gradients[i])
        assert gained / 1e-6 == pytest.approx(scores[i], rel=1e-2, abs=1e-4)


def test_nothing_held_out_is_refused(split: Split) -> None:
    with pytest.raises(InputError, match="no example is held out"):
        influence(Linear(), split, np.array([], np.int64), device=torch.device("cpu"), costs=CostTracker())


@pytest.mark.parametrize(("keep", "count"), [(1.0, 41), (0.5, 20), (0.29, 11), (0.01, 1)])
def test_the_best_share_is_chosen(split: Split, keep: float, count: int) -> None:
    scores = np.random.default_rng(0).normal(size=SIZE)
    chosen = Distilled.best(split, scores, keep)
    assert chosen.ids.tolist() == sorted(split.ids[np.argsort(scores)[-count:]])
    assert chosen.share == count / SIZE
    assert chosen.counts(8, [Logits()]) == {"logits": round(8 * count / SIZE)}


def answered(weighting: Weighting, batch: Batch, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a term's mean, and the labels', come to, and the rows."""
    terms = [Logits()]
    student = Outputs(torch.zeros(len(batch.ids), CLASSES))
    rows = weighting.pick(student, batch, terms)
    taken = losses[rows["logits"]]
    answers = Answers(batch, student, {}, {LABELS: losses, "logits": taken})
    weights = weighting.weigh(answers, terms, rows)
    labels = (weights.get(LABELS, torch.ones_like(losses)) * losses).mean()
    return (weights["logits"] * taken).sum() / max(len(taken), 1), labels, rows["logits"]


def test_a_term_is_a_sum_over_the_chosen_divided_by_the_batch(split: Split) -> None:
    chosen = torch.from_numpy(np.sort(IDS[:13]))
    batch = split.batch([20, 1, 30, 2, 3])
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    for rest in (False, True):
        mean, labels, rows = answered(Distilled(chosen, 13 / SIZE, rest), batch, losses)
        assert rows.tolist() == [1, 3, 4]
        assert mean == pytest.approx((2 + 8 + 16) / 5)
        assert labels == pytest.approx((1 + 4 if rest else 31) / 5)
    for indices, part in (([20, 30], 0.0), ([5], 1.0)):
        mean, _, rows = answered(Distilled(chosen, 13 / SIZE), split.batch(indices), losses[: len(indices)])
        assert len(rows) == round(part)
        assert mean == part


def test_another_pick_keeps_its_own_mean(split: Split) -> None:
    chosen = Distilled(torch.from_numpy(np.sort(IDS[:13])), 13 / SIZE)
    both = Together(PickedRows(TopFraction("loss", 0.4)), chosen)
    batch = split.batch([1, 20, 2, 30, 3])
    losses = torch.arange(5.0)
    mean, _, rows = answered(both, batch, losses)
    theirs = PickedRows(TopFraction("loss", 0.4)).pick(Outputs(torch.zeros(5, CLASSES)), batch, [Logits()])["logits"]
    assert rows.tolist() == [row for row in theirs.tolist() if row in (0, 2, 4)]
    assert mean == pytest.approx(float(losses[rows].mean() * 3 / 5))
