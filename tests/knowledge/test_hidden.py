"""The losses between hidden states, against loops in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from ackd.knowledge import Hidden, HiddenCls, HiddenCosine, build
from ackd.types import Batch, Knowledge, ModelDims, OutputRequest, Outputs

Vector = NDArray[np.float64]
MAPS = [((0, 1), (1, 3)), ((0, 1), (0, 3), (1, 3)), ((-1, -1), (1, 2)), ((1, 0),)]


def project(loss: Knowledge, vector: Tensor) -> Vector:
    assert isinstance(loss.projection, nn.Module)
    values: Vector = vector.numpy()
    for weight, bias in [[one.detach().numpy() for one in loss.projection.parameters()]]:
        values = weight @ values + bias
    return values


def tokens(
    loss: Knowledge, pairs: tuple[tuple[int, int], ...], student: Outputs, teacher: Outputs, i: int, length: int
) -> Iterator[tuple[Vector, Vector]]:
    for s, t in pairs:
        for token in range(length):
            yield project(loss, student.hidden[s][i, token]), teacher.hidden[t][i, token].numpy()


def cosine(a: Vector, b: Vector) -> float:
    return float(np.dot(a, b) / np.sqrt(np.sum(a**2) * np.sum(b**2)))


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
    squares, directions, firsts = (
        kind(small, large, pairs).double().requires_grad_(False) for kind in (Hidden, HiddenCosine, HiddenCls)
    )
    for i, length in enumerate(lengths):
        errors = [np.mean((a - b) ** 2) for a, b in tokens(squares, pairs, student, teacher, i, length)]
        assert squares(student, teacher, batch)[i].item() == pytest.approx(np.mean(errors), rel=1e-9)
        angles = [1 - cosine(a, b) for a, b in tokens(directions, pairs, student, teacher, i, length)]
        assert directions(student, teacher, batch)[i].item() == pytest.approx(np.mean(angles), rel=1e-9)
        vectors = [(project(firsts, student.cls[s][i]), teacher.cls[t][i].numpy()) for s, t in pairs]
        # between unit vectors, the squared distance is twice what their cosine lacks
        apart = [2 * (1 - cosine(a, b)) / large.width for a, b in vectors]
        assert firsts(student, teacher, batch)[i].item() == pytest.approx(np.mean(apart), rel=1e-9)


@pytest.mark.parametrize("name", ["embeddings", "hidden", "hidden-cls", "hidden-cosine", "fsp"])
def test_only_a_needed_projection_is_made(name: str, small: ModelDims, large: ModelDims) -> None:
    (same,) = build([name], small, small)
    (other,) = build([name], small, large)
    assert not list(same.parameters())
    assert {key: tuple(value.shape) for key, value in other.state_dict().items()} == {
        "projection.weight": (9, 6),
        "projection.bias": (9,),
    }


def test_the_embeddings_have_a_projection_of_their_own(small: ModelDims, large: ModelDims) -> None:
    embeddings, hidden = build(["embeddings", "hidden"], small, large)
    assert embeddings.name == "embeddings"
    assert embeddings.student_needs == embeddings.teacher_needs == OutputRequest(hidden=frozenset({-1}))
    assert not set(embeddings.parameters()) & set(hidden.parameters())


def test_a_direction_has_no_size(
    small: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    batch = batch_of([4, 2], 4)
    outputs = outputs_of(small, 2, 4, 0)
    longer = Outputs(
        cls={k: 3 * v for k, v in outputs.cls.items()}, hidden={k: 3 * v for k, v in outputs.hidden.items()}
    )
    for loss in build(["hidden-cls", "hidden-cosine"], small, small):
        assert loss(longer, outputs, batch).abs().max() < 1e-12, loss.name
