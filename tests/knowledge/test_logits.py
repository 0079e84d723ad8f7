"""The losses between answers, against plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd.errors import InputError
from ackd.knowledge import Logits, LogitsCosine, LogitsMse, LogitsSoftCrossEntropy, build, label_loss
from ackd.types import Batch, ModelDims, Outputs

Row = list[float]


def softmax(z: Row, tau: float) -> Row:
    powers = [math.exp(x / tau) for x in z]
    return [x / sum(powers) for x in powers]


def kl(s: Row, t: Row, tau: float) -> float:
    return tau**2 * sum(p * math.log(p / q) for p, q in zip(softmax(t, tau), softmax(s, tau), strict=True))


def soft_cross_entropy(s: Row, t: Row, tau: float) -> float:
    return -sum(p * math.log(q) for p, q in zip(softmax(t, tau), softmax(s, tau), strict=True))


def squared(s: Row, t: Row) -> float:
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def cosine(s: Row, t: Row) -> float:
    return 1 - sum(a * b for a, b in zip(s, t, strict=True)) / (math.hypot(*s) * math.hypot(*t))


rows = st.lists(st.lists(st.floats(-8, 8).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=3), min_size=1)


@given(students=rows, teachers=rows, tau=st.floats(0.5, 10))
@settings(max_examples=30, deadline=None)
def test_losses_equal_plain_loops(
    students: list[Row],
    teachers: list[Row],
    tau: float,
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
) -> None:
    pairs = list(zip(students, teachers, strict=False))
    batch = batch_of([1] * len(pairs), 1)
    student, teacher = (Outputs(torch.tensor(z, dtype=torch.float64)) for z in zip(*pairs, strict=True))
    expected = {
        Logits(temperature=tau): [kl(s, t, tau) for s, t in pairs],
        LogitsMse(): [squared(s, t) for s, t in pairs],
        LogitsSoftCrossEntropy(temperature=tau): [soft_cross_entropy(s, t, tau) for s, t in pairs],
        LogitsCosine(small, large): [cosine(s, t) for s, t in pairs],
    }
    for loss, values in expected.items():
        assert loss(student, teacher, batch).tolist() == pytest.approx(values, rel=1e-9, abs=1e-9), loss.name


def test_equal_answers_diverge_by_exactly_nothing(
    small: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    outputs = outputs_of(small, 4, 1, 0)
    assert Logits()(outputs, outputs, batch_of([1] * 4, 1)).tolist() == [0.0] * 4


def test_soft_cross_entropy_is_least_at_the_teachers_answer(
    small: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    """There it is the teacher's entropy, and its gradient is 0."""
    teacher = outputs_of(small, 2, 1, 0)
    assert teacher.logits is not None
    answer = teacher.logits.clone().requires_grad_()
    loss = LogitsSoftCrossEntropy()(Outputs(answer), teacher, batch_of([1, 1], 1))
    entropies = [-sum(p * math.log(p) for p in softmax(z, 1.0)) for z in teacher.logits.tolist()]
    assert loss.tolist() == pytest.approx(entropies)
    (gradient,) = torch.autograd.grad(loss.sum(), answer)
    assert gradient.abs().max() < 1e-12


def test_soft_cross_entropy_keeps_temperature_1_unless_told(small: ModelDims, large: ModelDims) -> None:
    soft, softened = build(["logits-soft-ce", "logits"], small, large, temperature=7.0)
    assert isinstance(soft, LogitsSoftCrossEntropy)
    assert isinstance(softened, Logits)
    assert (soft.temperature, softened.temperature) == (1.0, 7.0)


@pytest.mark.parametrize("name", ["logits", "logits-mse", "logits-soft-ce"])
def test_answers_of_a_regression_are_compared_by_their_square(name: str, batch_of: Callable[..., Batch]) -> None:
    number = ModelDims(layers=1, width=2, heads=1, classes=1, vocabulary=9)
    (loss,) = build([name], number, number)
    student, teacher = (Outputs(torch.tensor([[a], [b]])) for a, b in ((1.0, 2.0), (3.0, 2.5)))
    assert loss(student, teacher, batch_of([1, 1], 1)).tolist() == [4.0, 0.25]


def test_refusals() -> None:
    number = ModelDims(layers=1, width=2, heads=1, classes=1, vocabulary=9)
    with pytest.raises(InputError, match=r"'logits-cosine'.*1 number.*use 'logits-mse'"):
        LogitsCosine(number, number)
    with pytest.raises(InputError, match="temperature must be above 0, got 0"):
        Logits(temperature=0)
    with pytest.raises(InputError, match=r"temperature must be above 0, got -1\.5"):
        LogitsSoftCrossEntropy(temperature=-1.5)
    with pytest.raises(InputError, match="temperature must be above 0, got nan"):
        Logits(temperature=math.nan)


def test_label_loss() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    expected = [math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(1.0))]
    assert label_loss(logits, torch.tensor([0, 0])).tolist() == pytest.approx(expected)
    assert label_loss(torch.tensor([[1.5], [0.0]]), torch.tensor([1.0, 2.0])).tolist() == [0.25, 4.0]
