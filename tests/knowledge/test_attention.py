"""The losses between attention scores, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.knowledge import Attention, AttentionKL, build
from ackd.knowledge.divergence import divergence
from ackd.types import Batch, ModelDims, Outputs

Row = NDArray[np.float64]
MAPS = [((0, 1), (1, 3)), ((0, 1), (0, 3), (1, 3)), ((1, 0),)]


def kl(t: Row, s: Row) -> float:
    p, q = ([math.exp(x) for x in row] for row in (t, s))
    return sum(a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q))) for a, b in zip(p, q, strict=True))


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 1000), pairs=st.sampled_from(MAPS)
)
@settings(max_examples=30, deadline=None)
def test_losses_equal_plain_loops(
    lengths: list[int],
    seed: int,
    pairs: tuple[tuple[int, int], ...],
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    longest = max(lengths) + 2
    batch = batch_of(lengths, longest)
    student, teacher = (outputs_of(shape, len(lengths), longest, seed + k) for k, shape in enumerate((small, large)))
    squares, divergences = (kind(small, large, pairs)(student, teacher, batch) for kind in (Attention, AttentionKL))
    for i, n in enumerate(lengths):
        rows = [
            (student.attention[s][i, head, q, :n].numpy(), teacher.attention[t][i, head, q, :n].numpy())
            for s, t in pairs
            for head in range(3)
            for q in range(n)
        ]
        errors = [(a - b) ** 2 for s, t in rows for a, b in zip(s, t, strict=True)]
        assert squares[i].item() == pytest.approx(sum(errors) / len(errors), rel=1e-9)
        apart = [kl(t, s) for s, t in rows]
        assert divergences[i].item() == pytest.approx(sum(apart) / len(apart), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("fill", [1e300, -1e300, torch.finfo(torch.float64).min])
def test_a_hidden_column_has_no_part_at_all(fill: float) -> None:
    """Not in the value, not in the gradient, and no NaN in either."""
    mask = torch.tensor([[1, 1, 0]])
    generator = torch.Generator().manual_seed(0)
    scores, target = (torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    alone = divergence(scores[..., :2, :2], target[..., :2, :2], mask[:, :2])
    scores[..., 2], target[..., 2] = fill, -fill / 2
    scores.requires_grad_()
    loss = divergence(scores, target, mask)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient[..., 2].eq(0).all()
    assert gradient[..., 2, :].eq(0).all()
    assert gradient[..., :2, :2].ne(0).all()


@pytest.mark.parametrize("name", ["attention", "attention-kl", "values"])
def test_other_head_counts_are_refused(name: str, small: ModelDims, large: ModelDims) -> None:
    with pytest.raises(InputError, match=rf"3 attention heads and the teacher 9, and '{name}'.*deselect it.*'qkv'"):
        build([name], small, replace(large, heads=9))
