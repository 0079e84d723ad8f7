"""Soft labels from an autoencoder: the table, what it is made of, and the teacher that answers with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.teachers import LabelTeacher
from ackd.teachers.autoencoder import BATCH, Inputs, fit, least_boost, of_images, of_vectors, similarity, soft_labels
from ackd.teachers.labels import smooth_labels
from ackd.types import Batch, OutputRequest

LOGITS = OutputRequest(logits=True)
CLASSES = 3


def blobs(size: int = 60, width: int = 8, *, seed: int = 0) -> tuple[Inputs, NDArray[np.int64]]:
    """Vectors around one centre a class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % CLASSES
    values = torch.from_numpy(rng.normal(size=(CLASSES, width))[labels] + 0.3 * rng.normal(size=(size, width))).float()
    return lambda indices: values[torch.from_numpy(indices)], labels


def made(**changes: object) -> LabelTeacher:
    inputs, labels = blobs()
    options: dict[str, object] = {"images": False, "steps": 30, **changes}
    return soft_labels(inputs, labels, CLASSES, **options)  # type: ignore[arg-type]


def pairwise(codes: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The published double loop: each unordered pair of drawn examples once, averaged by pair of classes."""
    flat = [(label, code) for label, those in enumerate(codes) for code in those]
    sums, counts = np.zeros((len(codes), len(codes))), np.zeros((len(codes), len(codes)))
    for i, (a, one) in enumerate(flat):
        for b, other in flat[i + 1 :]:
            cosine = one @ other / (max(float(np.linalg.norm(one)), 1e-8) * max(float(np.linalg.norm(other)), 1e-8))
            for row, column in {(a, b), (b, a)}:
                sums[row, column] += cosine
                counts[row, column] += 1
    return sums / counts


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=2, max_size=4), st.integers(1, 5), st.integers(0, 1000))
def test_similarity_is_the_mean_over_pairs(sizes: list[int], width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = [np.maximum(rng.normal(size=(size, width)), 0.0) for size in sizes]  # some are all 0
    found = similarity([torch.from_numpy(code) for code in codes])
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), pairwise(codes), atol=1e-12)


def test_the_least_boost_is_just_enough() -> None:
    similarities = torch.tensor([[0.9, 0.8, 0.7], [0.95, 0.9, 0.1], [0.2, 0.3, 0.299]], dtype=torch.float64)
    boost = least_boost(similarities)
    assert boost == pytest.approx(0.05, abs=2e-4)
    own = torch.arange(3)
    assert ((similarities + boost * torch.eye(3)).argmax(1) == own).all()
    assert ((similarities + (boost - 2e-4) * torch.eye(3)).argmax(1) != own).any()
    assert least_boost(torch.eye(3, dtype=torch.float64)) == 0.0


@pytest.mark.parametrize("temperature", [0.001, 0.1, 1.0])
def test_rows_are_distributions_led_by_their_own_class(temperature: float) -> None:
    table = made(temperature=temperature).table
    torch.testing.assert_close(table.sum(1), torch.ones(CLASSES))
    assert table.argmax(1).tolist() == list(range(CLASSES))


def test_the_table_is_a_softmax_of_boosted_similarities() -> None:
    """Two boosts and two temperatures give the similarities back from the logarithms alone."""
    low, high, warm = made(boost=0.0).table.log(), made(boost=0.5).table.log(), made(boost=0.0, temperature=1.0).table
    similarities = 0.1 * (low - low[:, :1])
    torch.testing.assert_close(similarities, warm.log() - warm.log()[:, :1], atol=1e-5, rtol=0)
    expected = ((similarities + 0.5 * torch.eye(CLASSES)) / 0.1).log_softmax(1)
    torch.testing.assert_close(high, expected, atol=1e-4, rtol=0)


def test_classes_that_are_alike_are_likelier() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    centres = rng.normal(size=(3, 16))
    centres[1] = centres[0] + 0.3 * rng.normal(size=16)
    values = torch.from_numpy(centres[labels] + 0.3 * rng.normal(size=(90, 16))).float()
    table = soft_labels(lambda indices: values[torch.from_numpy(indices)], labels, 3, images=False, steps=100).table
    assert table[0, 1] > table[0, 2]
    assert table[1, 0] > table[1, 2]


def test_a_seed_fixes_the_table_and_disturbs_nobody() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = made(seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again, other = made(seed=5), made(seed=6)
    assert torch.equal(first.table, again.table)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(first.table, other.table)


def test_images_are_learned_and_counted() -> None:
    """The FLOPs against their closed form: per layer 2 x (weights' products), three passes but for the input's."""
    rng = np.random.default_rng(0)
    patterns = torch.rand(4, 1, 8, 8)
    images = patterns[torch.from_numpy(rng.integers(4, size=200))]
    torch.manual_seed(0)
    autoencoder = of_images(8)
    with torch.no_grad():
        before = float(autoencoder(images))
    spent = fit(autoencoder, lambda indices: images[torch.from_numpy(indices)], 200, steps=60, rng=rng)
    with torch.no_grad():
        assert float(autoencoder(images)) < 0.95 * before
        codes = autoencoder.codes(images)
    assert codes.shape == (200, 48)
    assert (codes >= 0).all()
    layers = [2 * 16 * 1 * 12 * 16, 2 * 16 * 12 * 24 * 4, 2 * 16 * 24 * 48 * 1]  # by the smaller side of each
    forward = 2 * sum(layers)  # the decoder mirrors the encoder
    assert spent == 60 * BATCH * (3 * forward - layers[0])


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(InputError, match="side 12 cannot be halved three times"):
        of_images(12)


def test_vectors_that_do_not_vary_are_no_trouble() -> None:
    sample = torch.ones(10, 4)
    assert torch.isfinite(of_vectors(sample)(sample))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"per_class": 1}, "draw at least 2"),
        ({"steps": 0}, "at least 1 step, got 0"),
        ({"temperature": 0.0}, "must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "must be above 0"),
        ({"boost": -0.1}, "boosted by 0 or more, got -0.1"),
        ({"boost": float("inf")}, "boosted by 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        made(**changes)


def test_classes_that_cannot_be_compared_are_refused() -> None:
    inputs, labels = blobs()
    with pytest.raises(InputError, match=r"class 1 has 1 training examples.*at least 2 of each class"):
        soft_labels(inputs, np.where(np.arange(60) == 1, 1, 0), 2, images=False)
    with pytest.raises(InputError, match="class 3 has 0 training examples"):
        soft_labels(inputs, labels, 4, images=False)
    with pytest.raises(InputError, match="there is 1 here, as for a regression"):
        soft_labels(inputs, np.zeros(60, np.int64), 1, images=False)


def test_a_class_of_two_is_enough() -> None:
    inputs, labels = blobs(6)
    table = soft_labels(inputs, labels, CLASSES, images=False, steps=5).table
    assert table.argmax(1).tolist() == [0, 1, 2]


def test_answers_are_looked_up_by_label(make_batch: Callable[..., Batch]) -> None:
    table = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.05, 0.9]])
    teacher, costs = LabelTeacher(table.log()), CostTracker()
    batch = make_batch((4, 2, 3, 5), classes=3)
    for _ in range(2):
        answer = teacher(batch, LOGITS, costs)
        assert answer.logits is not None
        torch.testing.assert_close(answer.logits.softmax(1), table[batch.labels])
        assert not answer.logits.requires_grad
    assert costs.flops["teacher"] == 0.0
    assert costs.teacher_queries == 8
    assert teacher.flops(LOGITS, 4, 5) == 0.0
    assert teacher.shape.classes == 3
    for needs in (OutputRequest(hidden=frozenset({0})), OutputRequest(logits=True, cls=frozenset({1}))):
        with pytest.raises(InputError, match="soft labels are logits alone"):
            teacher(batch, needs, costs)


def test_tables_that_are_none_are_refused() -> None:
    good = torch.full((3, 3), 1 / 3).log()
    for bad in (good[:2], good + 0.1, torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])):
        with pytest.raises(InputError, match="a row for each class"):
            LabelTeacher(bad)
    with pytest.raises(InputError, match="there is 1: they are not for a regression"):
        LabelTeacher(torch.zeros(1, 1))


def test_smoothed_labels_know_nothing() -> None:
    torch.testing.assert_close(smooth_labels(4).table, torch.full((4, 4), 0.25))
    assert F.kl_div(smooth_labels(4).table.log(), torch.full((4, 4), 0.25), reduction="sum").abs() < 1e-6
    with pytest.raises(InputError, match="regression"):
        smooth_labels(1)


@pytest.mark.parametrize(
    ("width", "widths"), [(32, [32, 16, 8, 16, 32]), (13, [13, 6, 3, 6, 13]), (5, [5, 2, 2, 2, 5])]
)
def test_vectors_are_halved_twice_and_brought_back(width: int, widths: list[int]) -> None:
    layers = [one for one in of_vectors(torch.randn(9, width)).modules() if isinstance(one, nn.Linear)]
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
