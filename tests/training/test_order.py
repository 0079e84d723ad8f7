"""The order of a student's examples."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ackd.training.sampler import LengthGroupedSampler

Lengths = NDArray[np.int64]


def order(lengths: Lengths, size: int, seed: int = 0) -> LengthGroupedSampler:
    return LengthGroupedSampler(lengths, size, np.random.default_rng(seed))


def skewed(count: int) -> Lengths:
    """Most of them short and some long, as texts are."""
    return np.clip(np.random.default_rng(1).lognormal(3, 0.7, count).astype(np.int64), 1, 128)


@given(examples=st.integers(1, 70), size=st.integers(1, 20), passes=st.integers(1, 4), seed=st.integers(0, 9))
@settings(deadline=None)
def test_each_pass_has_each_example_once(examples: int, size: int, passes: int, seed: int) -> None:
    """After the last whole batch of a pass, what is left of it has come once less than the others."""
    batches = examples * passes // size
    made = order(np.arange(examples) % 7 + 1, size, seed)
    seen: Counter[int] = Counter()
    for _ in range(batches):
        batch = made.next()
        assert batch.shape == (size,)
        seen.update(batch.tolist())
    assert set(seen) <= set(range(examples))
    begun = -(-batches * size // examples)  # so many passes have been drawn from
    assert all(begun - 1 <= seen[place] <= begun for place in range(examples))
    assert sum(seen.values()) == batches * size


def padding(lengths: Lengths, batches: list[Lengths]) -> float:
    """Padded places for each token."""
    rows = [lengths[batch] for batch in batches]
    return sum(len(row) * int(row.max()) for row in rows) / sum(int(row.sum()) for row in rows) - 1


def test_batches_are_of_similar_lengths() -> None:
    lengths = skewed(3000)
    made, rng = order(lengths, 16), np.random.default_rng(2)
    ours = padding(lengths, [made.next() for _ in range(180)])
    random = padding(lengths, [rng.permutation(3000)[:16] for _ in range(180)])
    assert random > 1
    assert ours < 0.25 * random


def test_short_and_long_batches_come_mixed() -> None:
    """The lengths of batches have no trend over a pass, and neither have those of the next pass the same order."""
    lengths = skewed(1600)
    made = order(lengths, 16)
    means = [[lengths[made.next()].mean() for _ in range(100)] for _ in range(2)]
    for one in means:
        assert abs(np.corrcoef(one, np.arange(100))[0, 1]) < 0.3
    assert means[0] != means[1]


def test_the_seed_decides() -> None:
    lengths = skewed(50)
    first, again, other = (np.stack([order(lengths, 8, seed).next() for _ in range(1)]) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    runs = [[made.next().tolist() for _ in range(20)] for made in (order(lengths, 8, 3), order(lengths, 8, 3))]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("examples", "size"), [(50, 8), (3, 8), (16, 8)])
@pytest.mark.parametrize("taken", [0, 1, 5, 7])
def test_it_goes_on_from_its_state(examples: int, size: int, taken: int) -> None:
    lengths = skewed(examples)
    made = order(lengths, size)
    for _ in range(taken):
        made.next()
    state, stream = made.state_dict(), made.generator.bit_generator.state
    rest = [made.next().tolist() for _ in range(20)]
    other = order(lengths, size, seed=99)
    other.next()
    other.load_state_dict(state)
    other.generator.bit_generator.state = stream
    assert [other.next().tolist() for _ in range(20)] == rest


def test_fewer_examples_than_a_batch_fill_it_anyway() -> None:
    made = order(np.array([3, 1, 2]), 8)
    counts = Counter(made.next().tolist())
    assert sorted(counts.values()) == [2, 3, 3]
