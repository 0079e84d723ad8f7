"""The cosines between the examples of a batch, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ackd.errors import InputError
from ackd.knowledge import Similarity
from ackd.types import Batch, ModelDims, Outputs


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_the_loss_equals_plain_loops(batch_of: Callable[..., Batch]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(4, width, generator=generator, dtype=torch.float64) for width in (3, 5))
    loss = Similarity(ModelDims(2, 3, 1, 3, 9), ModelDims(2, 5, 1, 5, 9))
    found = loss(Outputs(ours), Outputs(theirs), batch_of([1, 1, 1, 1], 1)).tolist()
    s, t = ours.tolist(), theirs.tolist()
    expected = [sum((cosine(s[i], s[j]) - cosine(t[i], t[j])) ** 2 for j in range(4) if j != i) / 3 for i in range(4)]
    assert found == pytest.approx(expected)


def test_neither_lengths_nor_a_rotation_count(batch_of: Callable[..., Batch]) -> None:
    ours = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    loss = Similarity(*[ModelDims(2, 4, 1, 4, 9)] * 2)
    sizes = torch.tensor([[1.0], [7.0], [0.1]])
    assert loss(Outputs(ours), Outputs(sizes * (ours @ turn)), batch_of([1, 1, 1], 1)).abs().max() < 1e-12


def test_one_example_has_nothing_beside_it(batch_of: Callable[..., Batch]) -> None:
    loss = Similarity(*[ModelDims(2, 4, 1, 4, 9)] * 2)
    assert loss(Outputs(torch.ones(1, 4)), Outputs(torch.ones(1, 4)), batch_of([1], 1)).tolist() == [0.0]


def test_a_regression_is_refused() -> None:
    with pytest.raises(InputError, match="only a sign"):
        Similarity(*[ModelDims(2, 4, 1, 1, 9)] * 2)
