"""Scores against numpy, the picks that they make, and the answers at which published code breaks down."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from ackd.errors import InputError
from ackd.weighting.scores import NAMES, TopFraction, check_uncertain, confidence, entropy, margin, uncertainty

UNCERTAIN = ("entropy", "margin", "confidence")
EXTREME = [[1e4, 0.0, -1e4], [0.0, 0.0, 0.0], [3e38, -3e38, 0.0], [1e4, 1e4, -1e4]]

logits = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(2, 5)), elements=st.floats(-30, 30, allow_subnormal=False)
)


def probabilities(z: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True), dtype=np.float64)


def numpy_entropy(z: NDArray[np.float64]) -> NDArray[np.float64]:
    p = probabilities(z)
    return np.asarray(-np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(-1), dtype=np.float64)


def numpy_margin(z: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.sort(probabilities(z))
    return np.asarray(p[:, -2] - p[:, -1], dtype=np.float64)


PLAIN: dict[Callable[[Tensor], Tensor], Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    entropy: numpy_entropy,
    uncertainty: lambda z: numpy_entropy(z) / np.log(z.shape[-1]),
    margin: numpy_margin,
    confidence: lambda z: -probabilities(z).max(-1),
}


@settings(deadline=None, max_examples=60)
@given(logits)
def test_each_score_is_its_formula(z: NDArray[np.float64]) -> None:
    for score, plain in PLAIN.items():
        np.testing.assert_allclose(score(torch.from_numpy(z)).numpy(), plain(z), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_score_breaks_down_where_one_class_has_it_all(dtype: torch.dtype) -> None:
    z = torch.tensor(EXTREME, dtype=dtype, requires_grad=True)
    expected = torch.tensor([0.0, math.log(3), 0.0, math.log(2)])
    assert torch.allclose(entropy(z).float(), expected, atol=1e-6)
    assert torch.allclose(uncertainty(z).float(), expected / math.log(3), atol=1e-6)
    assert ((uncertainty(z) >= 0) & (uncertainty(z) <= 1)).all()
    assert torch.allclose(margin(z).float(), torch.tensor([-1.0, 0.0, -1.0, 0.0]))
    assert torch.allclose(confidence(z).float(), torch.tensor([-1.0, -1 / 3, -1.0, -0.5]))
    for score in PLAIN:
        (gradient,) = torch.autograd.grad(score(z).sum(), z)
        assert torch.isfinite(gradient).all(), score


def test_exact_one_hot_and_uniform_answers_are_the_ends_of_the_scale() -> None:
    for classes in (2, 3, 7):
        assert uncertainty(torch.zeros(1, classes)).item() == pytest.approx(1.0, abs=1e-6)
        assert uncertainty(torch.eye(classes) * 1e4).tolist() == [0.0] * classes


def test_one_output_has_no_uncertainty_and_is_told_what_to_do() -> None:
    with pytest.raises(InputError, match=r"1 output.*no uncertainty over classes.*--score loss, --score random"):
        uncertainty(torch.randn(4, 1))
    with pytest.raises(InputError, match=r"over classes: do this$"):
        check_uncertain(1, "do this")
    for score in NAMES:
        pick = TopFraction(score, 0.5)
        if pick.uncertain:
            with pytest.raises(InputError, match="no uncertainty over classes"):
                pick(torch.randn(4, 1), torch.randn(4))
        else:
            assert len(pick(torch.randn(4, 1), torch.randn(4))) == 2
    assert {name for name in NAMES if TopFraction(name, 0.5).uncertain} == {
        name + end for name in UNCERTAIN for end in ("", "-r")
    }


@settings(deadline=None, max_examples=80)
@given(logits, st.floats(0.01, 1.0), st.sampled_from(NAMES), st.integers(0, 99))
def test_a_pick_keeps_the_highest_in_their_order(z: NDArray[np.float64], keep: float, score: str, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, z.shape[1], len(z))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = TopFraction(score, keep)(torch.from_numpy(z), torch.from_numpy(labels)).numpy()
    assert len(rows) == max(int(len(z) * keep + 1e-9), 1)
    assert (np.diff(rows) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < len(z)
    plain = {
        "entropy": numpy_entropy(z),
        "margin": numpy_margin(z),
        "confidence": -probabilities(z).max(-1),
        "loss": -np.log(np.take_along_axis(probabilities(z), labels[:, None], 1)[:, 0]),
    }.get(score.removesuffix("-r"))
    if plain is not None:
        signed = -plain if score.endswith("-r") else plain
        rest = np.setdiff1d(np.arange(len(z)), rows)
        assert not len(rest) or signed[rows].min() >= signed[rest].max() - 1e-9


@pytest.mark.parametrize("score", [*UNCERTAIN, "loss"])
def test_a_score_and_its_reverse_split_the_batch(score: str) -> None:
    z, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 4
    halves = [TopFraction(name, 0.5)(z, labels).tolist() for name in (score, f"{score}-r")]
    assert sorted(halves[0] + halves[1]) == list(range(10))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique_by=abs), st.floats(0.05, 1.0))
def test_of_two_classes_all_uncertainties_pick_the_same(differences: list[int], keep: float) -> None:
    z = torch.tensor([[0.25 * d, 0.0] for d in differences], dtype=torch.float64)
    picks = [TopFraction(score, keep)(z, torch.zeros(len(z), dtype=torch.int64)).tolist() for score in UNCERTAIN]
    assert picks[0] == picks[1] == picks[2]


@pytest.mark.parametrize(
    ("size", "keep", "count"), [(4, 0.1, 1), (1, 0.5, 1), (9, 0.1, 1), (20, 0.1, 2), (100, 0.29, 29)]
)
def test_a_pick_is_never_empty(size: int, keep: float, count: int) -> None:
    z = torch.randn(size, 3, generator=torch.Generator().manual_seed(0))
    for score in NAMES:
        pick = TopFraction(score, keep)
        assert pick.count(size) == len(pick(z, torch.zeros(size, dtype=torch.int64))) == count


def test_of_equal_scores_the_first_come_first() -> None:
    for score in (*UNCERTAIN, *(f"{name}-r" for name in UNCERTAIN)):
        assert TopFraction(score, 0.5)(torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)).tolist() == [0, 1, 2]


def test_random_follows_torchs_generator_and_covers_the_batch() -> None:
    z, labels, pick = torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64), TopFraction("random", 0.25)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        draws = [tuple(pick(z, labels).tolist()) for _ in range(40)]
        torch.manual_seed(5)
        assert [tuple(pick(z, labels).tolist()) for _ in range(40)] == draws
    assert {place for draw in draws for place in draw} == set(range(8))


def test_no_gradient_passes_through_a_pick() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    assert not any(TopFraction(score, 0.5)(z, torch.zeros(4, dtype=torch.int64)).requires_grad for score in NAMES)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(InputError, match=f"a share of {keep} of the examples cannot be kept"):
        TopFraction("margin", keep)


def test_an_unknown_score_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown score 'margn': did you mean 'margin'"):
        TopFraction("margn", 0.5)


@pytest.mark.parametrize("score", NAMES)
def test_texts_are_picked_by_loss_or_at_random_only(score: str) -> None:
    """A language model answers for each token, and of its classes an example has no one uncertainty."""
    z, labels, pick = torch.randn(4, 3, 7), torch.zeros(4, 3, dtype=torch.int64), TopFraction(score, 0.5)
    if pick.uncertain:
        with pytest.raises(InputError, match=r"a language model .* choose examples by their loss or at random"):
            pick(z, labels)
    else:
        assert len(pick(z, labels)) == 2
