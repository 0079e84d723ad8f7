"""How examples lie to each other, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.knowledge import build
from ackd.types import Batch, ModelDims, Outputs

NAMES = ["rkd-distance", "rkd-angle"]


def smooth(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def distances(features: list[list[float]]) -> list[list[float]]:
    table = [[math.dist(a, b) for b in features] for a in features]
    positive = [x for row in table for x in row if x > 0]
    return [[x / (sum(positive) / len(positive)) for x in row] for row in table]


def angle(i: list[float], j: list[float], k: list[float]) -> float:
    if math.dist(i, j) == 0 or math.dist(i, k) == 0:
        return 0.0
    dot = sum((b - a) * (c - a) for a, b, c in zip(i, j, k, strict=True))
    return dot / (math.dist(i, j) * math.dist(i, k))


def features(outputs: Outputs) -> list[list[float]]:
    last: list[list[float]] = outputs.cls[max(outputs.cls)].tolist()
    return last


def mapped(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    return Outputs(cls={layer: change(vectors) for layer, vectors in outputs.cls.items()})


@given(size=st.integers(2, 5), seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 30.0]), twin=st.booleans())
@settings(max_examples=30, deadline=None)
def test_losses_equal_plain_loops(
    size: int,
    seed: int,
    scale: float,
    twin: bool,
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    """The distribution is skewed so that both branches of smooth L1 are met; `twin` repeats an example."""
    student, teacher = (
        mapped(outputs_of(shape, size, 1, seed + k), lambda x: (x**3 * scale)[[*range(size), *([0] * twin)]])
        for k, shape in enumerate((small, large))
    )
    batch = batch_of([1] * (size + twin), 1)
    of_distances, of_angles = build(NAMES, small, large)
    ours, theirs = features(student), features(teacher)
    count = len(ours)
    table, target = distances(ours), distances(theirs)
    expected = [
        sum(smooth(a, b) for a, b in zip(*rows, strict=True)) / count for rows in zip(table, target, strict=True)
    ]
    assert of_distances(student, teacher, batch).tolist() == pytest.approx(expected, rel=1e-9)
    expected = [
        sum(
            smooth(angle(ours[i], ours[j], ours[k]), angle(theirs[i], theirs[j], theirs[k]))
            for j in range(count)
            for k in range(count)
        )
        / count**2
        for i in range(count)
    ]
    assert of_angles(student, teacher, batch).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_turning_moving_and_scaling_change_nothing(
    name: str, small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    batch = batch_of([1] * 5, 1)
    student, teacher = (outputs_of(shape, 5, 1, k) for k, shape in enumerate((small, large)))
    (loss,), (itself,) = (build([name], small, other) for other in (large, small))
    before = loss(student, teacher, batch)
    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rotation = torch.linalg.qr(noise).Q
    for changed in (mapped(student, lambda x: x @ rotation), mapped(student, lambda x: 7 * x + 3)):
        assert torch.allclose(loss(changed, teacher, batch), before, rtol=1e-9)
        assert itself(changed, student, batch).abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alike", [[0, 0, 1], [0, 0, 0], [0]])
def test_identical_examples_have_finite_gradients(
    name: str,
    alike: list[int],
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    """And pull at nothing where all are alike."""
    teacher = mapped(outputs_of(large, 3, 1, 1), lambda x: x[: len(alike)])
    start = outputs_of(small, 2, 1, 0).cls[1][alike].requires_grad_()
    (loss,) = build([name], small, large)
    value = loss(Outputs(cls={1: start}), teacher, batch_of([1] * len(alike), 1))
    (gradient,) = torch.autograd.grad(value.sum(), start)
    assert gradient.isfinite().all()
    assert bool(gradient.any()) == (len(set(alike)) > 1)
    if len(alike) == 1:
        assert value.tolist() == [0.0]
