"""Cheap dropout: the right share of zeros, the right scale, the right gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd import models
from ackd.models import Model
from ackd.models.dropout import STEPS, CheapDropout, dropout
from ackd.types import Batch, OutputRequest


@given(p=st.floats(0.01, 0.95), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_share_and_scale(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    values = torch.ones(40_000)
    found = dropout(values, p)
    kept = found != 0
    # five standard deviations of a binomial share
    assert abs(kept.float().mean().item() - (1 - p)) < 5 * (p * (1 - p) / 40_000) ** 0.5 + 1 / STEPS
    assert torch.allclose(found[kept], torch.tensor(1 / (1 - p)), rtol=1e-3)


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 5, 1)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_the_ends_are_torchs_own() -> None:
    values = torch.randn(100)
    assert torch.equal(dropout(values, 0.0), values)
    assert not dropout(values, 1.0).any()


def test_entries_are_independent() -> None:
    """Neighbours share the 64 bits that they are drawn from: that must not show."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) != 0).float().view(-1, 4)
    correlation = torch.corrcoef(kept.T)
    assert (correlation - torch.eye(4)).abs().max() < 5 / 100_000**0.5


def test_the_gradient_is_the_mask_and_the_seed_fixes_it() -> None:
    values = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    found = dropout(values, 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert torch.equal(gradient, found)
    torch.manual_seed(1)
    assert torch.equal(dropout(values, 0.3), found)


@pytest.mark.parametrize("p", [1e-7, 0.3, 1.0])
def test_under_vmap_everybody_has_a_mask_of_its_own(p: float) -> None:
    torch.manual_seed(2)
    values = torch.ones(3, 40_000, requires_grad=True)
    found = torch.vmap(lambda one: dropout(one, p), randomness="different")(values)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert torch.equal(gradient, found)
    kept = (found != 0).float()
    correlation = torch.corrcoef(kept)[~torch.eye(3, dtype=torch.bool)]
    for share in kept.mean(1).tolist():
        assert abs(share - (1 - p)) < 5 * (p * (1 - p) / 40_000) ** 0.5 + 1 / STEPS
    if 0.01 < p < 0.99:
        assert correlation.abs().max() < 5 / 40_000**0.5


def test_a_student_trains_with_it_and_answers_without(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    model = make_model()
    plain = copy.deepcopy(model).eval()
    batch = make_batch()
    needs = OutputRequest(logits=True)
    with torch.no_grad():
        answers = models.run(model.eval(), batch, needs).logits
        first, second = (models.run(model.train(), batch, needs).logits for _ in range(2))
        assert any(isinstance(module, CheapDropout) for module in model.modules())
        assert answers is not None
        assert first is not None
        assert second is not None
        assert torch.allclose(answers, plain(**batch.inputs).logits, atol=1e-6)
        assert not torch.equal(first, second)
    assert model.state_dict().keys() == plain.state_dict().keys()
