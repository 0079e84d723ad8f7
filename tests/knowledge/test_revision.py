"""Revised answers, the loss of their re-implementation and refined logits, against the formulas in plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge import MaskedCorrelation, Revision, SampleConfidence
from ackd.knowledge.revision import FLOOR, check_revision, revised
from ackd.types import Batch, Knowledge, ModelDims, Outputs

Floats = NDArray[np.float64]
SHAPE = ModelDims(2, 6, 3, 4, 50)


@st.composite
def answers(draw: st.DrawFn, size: float = 30.0) -> tuple[Floats, NDArray[np.int64]]:
    """Some logits, [B, C], and labels, [B]."""
    rows, classes = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    logits = draw(arrays(np.float64, (rows, classes), elements=st.floats(-size, size, width=32)))
    return logits, draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))


etas = st.floats(0.01, 0.99)


def softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max(-1, keepdims=True))
    result: Floats = e / e.sum(-1, keepdims=True)
    return result


def formula(z: Floats, y: NDArray[np.int64], eta: float) -> tuple[Floats, Floats]:
    """p' and beta, as the paper writes them, for every example."""
    p, rows = softmax(z), np.arange(len(z))
    beta = eta / (p.max(-1) - p[rows, y] + 1)
    return beta[:, None] * p + (1 - beta)[:, None] * np.eye(z.shape[1])[y], beta


def wrong(z: Floats, y: NDArray[np.int64]) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = z[np.arange(len(z)), y] < z.max(-1)
    return result


@given(of=answers(), eta=etas)
@settings(deadline=None)
def test_it_is_the_papers_formula(of: tuple[Floats, NDArray[np.int64]], eta: float) -> None:
    z, y = of
    expected, _ = formula(z, y, eta)
    everywhere = revised(torch.from_numpy(z), torch.from_numpy(y), eta=eta, where="all").exp().numpy()
    mistakes = revised(torch.from_numpy(z), torch.from_numpy(y), eta=eta).exp().numpy()
    np.testing.assert_allclose(everywhere, expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(mistakes, np.where(wrong(z, y)[:, None], expected, softmax(z)), rtol=1e-9, atol=1e-15)


@given(of=answers(1e4), eta=etas, where=st.sampled_from(["wrong", "all"]))
@settings(deadline=None)
def test_the_label_leads_and_the_others_keep_their_ratios(
    of: tuple[Floats, NDArray[np.int64]], eta: float, where: Any
) -> None:
    z, y = of
    log_p = revised(torch.from_numpy(z), torch.from_numpy(y), eta=eta, where=where).numpy()
    rows = np.arange(len(z))
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-12)
    others = log_p.copy()
    others[rows, y] = -np.inf
    if where == "all":
        assert (log_p[rows, y] > others.max(-1)).all()
    else:  # a tie of the teacher's with the label is no mistake
        assert (log_p[rows, y] >= others.max(-1)).all()
    for row, label in zip(rows, y, strict=True):
        apart = np.delete(log_p[row] - z[row], label)
        np.testing.assert_allclose(apart, apart[0], atol=1e-9)


@given(of=answers(), eta=etas)
@settings(deadline=None)
def test_beta_is_eta_where_the_teacher_is_right(of: tuple[Floats, NDArray[np.int64]], eta: float) -> None:
    z, _ = of
    y = z.argmax(-1)
    _, beta = formula(z, y, eta)
    assert (beta == eta).all()
    p = revised(torch.from_numpy(z), torch.from_numpy(y), eta=eta, where="all").exp().numpy()
    np.testing.assert_allclose(p, eta * softmax(z) + (1 - eta) * np.eye(z.shape[1])[y], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "z", [[0.0, 3e4], [6e4, -6e4, 0.0], [0.0, -torch.inf], [-torch.inf, 0.0], [0.0, 0.0], [-1e38, 1e38, 3e38]]
)
def test_saturated_answers_give_finite_numbers(z: list[float], dtype: torch.dtype) -> None:
    most = 6e4 if dtype == torch.float16 else 3e38
    for label in range(len(z)):
        answer = revised(torch.tensor([z]).clamp_max(most).to(dtype), torch.tensor([label]), eta=0.8, where="all")
        assert answer.dtype == (torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype)
        assert torch.isfinite(answer).all()
        assert (answer >= FLOOR).all()
        assert answer.argmax() == label
        for tau in (0.01, 1.0, 20.0):
            assert torch.isfinite((answer / tau).log_softmax(-1).exp()).all()
            assert torch.isfinite((answer / tau).log_softmax(-1).exp() * (answer / tau).log_softmax(-1)).all()


@pytest.mark.parametrize(
    ("classes", "eta", "where", "said"),
    [
        (2, 0.0, "wrong", "eta is 0.0"),
        (2, 1.0, "wrong", "eta is 1.0"),
        (2, float("nan"), "wrong", "eta is nan"),
        (1, 0.5, "wrong", "as for a regression"),
        (2, 0.5, "rong", "did you mean 'wrong'"),
    ],
)
def test_what_cannot_be_revised_is_refused(classes: int, eta: float, where: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_revision(classes, eta, where)


def batch(y: NDArray[np.int64]) -> Batch:
    return Batch(torch.arange(len(y)), {"attention_mask": torch.ones(len(y), 2).long()}, torch.from_numpy(y))


def losses(loss: Knowledge, ours: Floats, theirs: Floats, y: NDArray[np.int64]) -> Floats:
    value = loss(Outputs(torch.from_numpy(ours)), Outputs(torch.from_numpy(theirs)), batch(y))
    result: Floats = value.numpy()
    assert result.shape == y.shape
    return result


@given(of=answers(), seed=st.integers(0, 9), lambdas=st.tuples(st.floats(0, 5), st.floats(0, 5)))
@settings(deadline=None)
def test_the_whole_loss_is_a_sum_of_group_means(
    of: tuple[Floats, NDArray[np.int64]], seed: int, lambdas: tuple[float, float]
) -> None:
    z, y = of
    ours = np.random.default_rng(seed).normal(size=z.shape)
    bad, (lambda1, lambda2) = wrong(z, y), lambdas
    expected = 0.0
    if (~bad).any():
        expected += float(np.mean(-np.log(softmax(ours)[~bad, y[~bad]])))
        expected += lambda1 * float(np.mean((ours[~bad] - z[~bad]) ** 2))
    if bad.any():
        expected += lambda2 * float(np.mean((softmax(ours)[bad] - formula(z, y, 0.7)[0][bad]) ** 2))
    loss = Revision(SHAPE, SHAPE, eta=0.7, lambda1=lambda1, lambda2=lambda2)
    assert losses(loss, ours, z, y).mean() == pytest.approx(expected, rel=1e-9)


@given(of=answers(), seed=st.integers(0, 9), tau=st.floats(0.5, 8))
@settings(deadline=None)
def test_refined_logits_are_their_papers_formulas(of: tuple[Floats, NDArray[np.int64]], seed: int, tau: float) -> None:
    z, y = of
    z = z / 5  # so that 1 - p is no rounding error in the plain formula
    ours = np.random.default_rng(seed).normal(size=z.shape)
    p, q, rows = softmax(z / tau), softmax(ours / tau), np.arange(len(z))
    ahead = p.max(-1)
    confidence, correlation = [], []
    for i in rows:
        pair = [(ahead[i], q[i, y[i]]), (1 - ahead[i], 1 - q[i, y[i]])]
        confidence.append(tau**2 * sum(a * np.log(a / b) for a, b in pair))
        behind = z[i] < z[i, y[i]]
        a, b = (softmax(one[i][behind] / tau) if behind.any() else np.zeros(0) for one in (z, ours))
        correlation.append(tau**2 * (a * np.log(a / b)).sum())
    of_confidence = losses(SampleConfidence(SHAPE, SHAPE, temperature=tau), ours, z, y)
    of_correlation = losses(MaskedCorrelation(SHAPE, SHAPE, temperature=tau), ours, z, y)
    np.testing.assert_allclose(of_confidence, confidence, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(of_correlation, correlation, rtol=1e-9, atol=1e-12)


LOSSES: list[Callable[[], Knowledge]] = [
    lambda: Revision(SHAPE, SHAPE),
    lambda: SampleConfidence(SHAPE, SHAPE),
    lambda: MaskedCorrelation(SHAPE, SHAPE),
]


@pytest.mark.parametrize("make", LOSSES)
def test_nothing_behind_the_label_and_saturated_answers_have_finite_gradients(make: Callable[[], Knowledge]) -> None:
    theirs = torch.tensor([[0.0, 1e3, 0.0, 0.0], [-1e3, 1e3, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
    y = torch.tensor([0, 0, 2, 3])
    for size in (0.0, 1.0, 1e3):
        ours = (size * theirs.flip(0)).requires_grad_()
        value = make()(Outputs(ours), Outputs(theirs), batch(y.numpy()))
        value.sum().backward()
        assert ours.grad is not None
        assert torch.isfinite(value).all()
        assert torch.isfinite(ours.grad).all()
        if make().name == "mcd":
            assert value[:3].abs().max() == 0
            assert ours.grad[:3].abs().max() == 0


@pytest.mark.parametrize("make", LOSSES)
def test_gradients_and_students_side_by_side(make: Callable[[], Knowledge]) -> None:
    generator = torch.Generator().manual_seed(0)
    students, theirs = (torch.randn(*sizes, 4, generator=generator, dtype=torch.float64) for sizes in ((3, 5), (5,)))
    asked, loss = batch(np.array([0, 1, 2, 3, 0])), make()

    def of(ours: Tensor) -> Tensor:
        return loss(Outputs(ours), Outputs(theirs), asked)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(lambda z: of(z).sum(), (students[0].clone().requires_grad_(),))
    apart = torch.stack([of(one) for one in students])
    assert torch.allclose(torch.vmap(of)(students), apart, atol=1e-14)
    gradients = torch.stack([torch.func.grad(lambda z: of(z).sum())(one) for one in students])
    assert torch.allclose(torch.vmap(torch.func.grad(lambda z: of(z).sum()))(students), gradients, atol=1e-14)


@pytest.mark.parametrize("make", LOSSES)
def test_half_precision_goes_no_further_than_the_outputs(make: Callable[[], Knowledge]) -> None:
    ours, theirs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)).bfloat16().unbind()
    asked = batch(np.array([0, 1, 2, 3, 0]))
    half = make()(Outputs(ours), Outputs(theirs), asked)
    assert half.dtype == torch.float32
    assert torch.equal(half, make()(Outputs(ours.float()), Outputs(theirs.float()), asked))
    assert make().flops(3, 5) == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Revision(SHAPE, ModelDims(2, 6, 3, 1, 50)), "as for a regression"),
        (lambda: SampleConfidence(ModelDims(2, 6, 3, 1, 50), SHAPE), "as for a regression"),
        (lambda: MaskedCorrelation(SHAPE, ModelDims(2, 6, 3, 1, 50)), "as for a regression"),
        (lambda: Revision(SHAPE, SHAPE, eta=2.0), "eta is 2.0"),
        (lambda: Revision(SHAPE, SHAPE, lambda1=-1.0), "lambda1 is -1.0"),
        (lambda: SampleConfidence(SHAPE, SHAPE, temperature=0.0), "temperature must be above 0"),
        (lambda: MaskedCorrelation(SHAPE, SHAPE, temperature=-1.0), "temperature must be above 0"),
    ],
)
def test_losses_that_cannot_be_are_refused(make: Callable[[], Knowledge], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
