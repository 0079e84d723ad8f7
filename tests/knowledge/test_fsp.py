"""The flow from layer to layer, against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from ackd.errors import InputError
from ackd.knowledge import Fsp, build
from ackd.types import Batch, ModelDims, Outputs

Matrix = NDArray[np.float64]


def flow(first: Matrix, second: Matrix) -> Matrix:
    """The mean of the outer products of the tokens."""
    outer = [
        [[a * b for b in row_second] for a in row_first] for row_first, row_second in zip(first, second, strict=True)
    ]
    mean: Matrix = np.mean(np.array(outer), 0)
    return mean


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    pairs=st.sampled_from([((0, 1), (1, 3)), ((0, 1), (0, 3), (1, 3)), ((1, 3), (-1, -1), (0, 1))]),
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
    student, teacher = (outputs_of(shape, len(lengths), longest, seed + k) for k, shape in enumerate((small, large)))
    loss = Fsp(small, large, pairs).double().requires_grad_(False)
    assert isinstance(loss.projection, nn.Linear)
    weight, bias = loss.projection.weight.numpy(), loss.projection.bias.numpy()
    values = loss(student, teacher, batch_of(lengths, longest)).tolist()
    for i, n in enumerate(lengths):
        errors = []
        for (s, t), (next_s, next_t) in pairwise(sorted(pairs)):
            ours = [
                np.array([weight @ token + bias for token in student.hidden[k][i, :n].numpy()]) for k in (s, next_s)
            ]
            theirs = [teacher.hidden[k][i, :n].numpy() for k in (t, next_t)]
            errors.append(np.mean((flow(*ours) - flow(*theirs)) ** 2))
        assert values[i] == pytest.approx(np.mean(errors), rel=1e-9)


def test_the_flow_of_one_token_is_its_outer_product(
    small: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    """Against a teacher whose states are 0 the loss is the outer product's mean square, whatever the padding."""
    student = outputs_of(small, 1, 5, 0)
    nothing = Outputs(hidden={k: torch.zeros_like(v) for k, v in student.hidden.items()})
    outer = np.outer(student.hidden[0][0, 0].numpy(), student.hidden[1][0, 0].numpy())
    (loss,) = build(["fsp"], small, small)
    for longest in (1, 5):
        cut = Outputs(hidden={k: v[:, :longest] for k, v in student.hidden.items()})
        zeros = Outputs(hidden={k: v[:, :longest] for k, v in nothing.hidden.items()})
        assert loss(cut, zeros, batch_of([1], longest)).item() == pytest.approx(np.mean(outer**2), rel=1e-12)


def test_a_single_pair_is_refused(small: ModelDims, large: ModelDims) -> None:
    with pytest.raises(InputError, match=r"'fsp'.*the layer map has only 0:1.*at least two pairs, as in 0:1,1:3"):
        build(["fsp"], small, large, layers="0:1")
    with pytest.raises(InputError, match="the layer map has only 0:2"):
        build(["fsp"], small, large, layers="last")
