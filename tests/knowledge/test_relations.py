"""The relations of queries, keys and values, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge import Relations, build
from ackd.types import Batch, ModelDims, OutputRequest, Outputs

Pairs = tuple[tuple[int, int], ...]
QKV = ("queries", "keys", "values")


def relation(vectors: Tensor, heads: int, head: int, row: int, length: int) -> list[float]:
    """One row of one head's relations between the first `length` tokens of one example."""
    size = vectors.shape[-1] // heads
    slices = vectors[:length, head * size : (head + 1) * size].numpy()
    powers = [math.exp(float(np.dot(slices[row], other)) / math.sqrt(size)) for other in slices]
    return [power / sum(powers) for power in powers]


def by_hand(
    student: Outputs, teacher: Outputs, i: int, length: int, pairs: Pairs, kinds: Sequence[str], heads: int
) -> float:
    total = 0.0
    for kind in kinds:
        for s, t in pairs:
            for head in range(heads):
                for row in range(length):
                    q = relation(getattr(student, kind)[s][i], heads, head, row, length)
                    p = relation(getattr(teacher, kind)[t][i], heads, head, row, length)
                    each = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
                    total += each / (len(pairs) * heads * length)
    return total


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    pairs=st.sampled_from([((1, 3),), ((0, 1), (1, 1)), ((0, 1), (0, 3), (1, 3))]),
    kinds=st.sampled_from([QKV, ("values",), ("keys", "queries")]),
    heads=st.sampled_from([1, 2, 6]),
    own=st.sampled_from([(2, 3), (3, 9), (3, 3)]),
)
@settings(max_examples=30, deadline=None)
def test_losses_equal_plain_loops(
    lengths: list[int],
    seed: int,
    pairs: Pairs,
    kinds: tuple[str, ...],
    heads: int,
    own: tuple[int, int],
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    """Whatever the models' own head counts and widths are."""
    shapes = [ModelDims(layers, width, h, 3, 50) for layers, width, h in zip((2, 4), (6, 18), own, strict=True)]
    longest = max(lengths) + 1
    student, teacher = (outputs_of(shape, len(lengths), longest, seed + k) for k, shape in enumerate(shapes))
    loss = Relations(shapes[0], shapes[1], pairs, of=kinds, heads=heads)
    values = loss(student, teacher, batch_of(lengths, longest)).tolist()
    expected = [by_hand(student, teacher, i, n, pairs, kinds, heads) for i, n in enumerate(lengths)]
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_values_have_the_models_own_heads(
    small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    """MiniLM: each model's d / A under the root, last layer to last layer."""
    student, teacher = (outputs_of(shape, 2, 4, k) for k, shape in enumerate((small, large)))
    (loss,) = build(["values"], small, large)
    assert (loss.student_needs, loss.teacher_needs) == (
        OutputRequest(values=frozenset({1})),
        OutputRequest(values=frozenset({3})),
    )
    expected = [by_hand(student, teacher, i, n, ((1, 3),), ["values"], 3) for i, n in enumerate((4, 2))]
    assert loss(student, teacher, batch_of([4, 2], 4)).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("widths", "heads"),
    [((312, 768), 24), ((768, 768), 48), ((384, 768), 48), ((768, 1024), 32), ((6, 9), 3), ((5, 7), 1)],
)
def test_relation_heads_divide_both_widths(widths: tuple[int, int], heads: int, small: ModelDims) -> None:
    student, teacher = (replace(small, width=width) for width in widths)
    assert Relations(student, teacher, ((0, 0),)).heads == heads


@pytest.mark.parametrize("heads", [4, 9, 0, -3])
def test_relation_heads_that_do_not_divide_are_refused(heads: int, small: ModelDims, large: ModelDims) -> None:
    with pytest.raises(
        InputError, match=rf"^{heads} relation heads .*width 6 and the teacher's 9: choose one of 1, 3$"
    ):
        Relations(small, large, ((0, 0),), heads=heads)
