"""Teachers around teachers: revised, swapped, partitioned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge.revision import revised
from ackd.models import Model
from ackd.tasks import Split
from ackd.teachers import Cached, ModelTeacher, Partitioned, Revised, Swapped, unwrap
from ackd.teachers.cache.store import Cache, Examples
from ackd.teachers.revised import swapped
from ackd.types import Batch, ModelDims, OutputKey, OutputRequest, Outputs, Teacher

LOGITS = OutputRequest(logits=True)
MORE = OutputRequest(logits=True, cls=frozenset({3}), hidden=frozenset({1}))


class Fixed:
    """A teacher with given logits."""

    def __init__(self, logits: list[list[float]], name: str = "fixed") -> None:
        self.logits = torch.tensor(logits)
        self.fingerprint = name
        self.shape = ModelDims(2, 8, 2, self.logits.shape[1], 50)

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        return Outputs(self.logits[batch.ids])

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return float(size)


@pytest.fixture
def teacher(make_model: Callable[..., Model]) -> ModelTeacher:
    return ModelTeacher(make_model(classes=3))


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(classes=3)


def logits(teacher: Teacher, batch: Batch, needs: OutputRequest = LOGITS) -> Tensor:
    answer = teacher(batch, needs, CostTracker()).logits
    assert answer is not None
    return answer


AROUND: dict[str, Callable[[Teacher], Teacher]] = {
    "revised": Revised,
    "swapped": Swapped,
    "partitioned": lambda one: Partitioned(one, Fixed([[0.0, 1.0, 2.0]] * 3)),
}


@pytest.mark.parametrize("name", AROUND)
def test_everything_but_logits_passes_through(name: str, teacher: ModelTeacher, batch: Batch) -> None:
    around = AROUND[name](teacher)
    there, here = (one(batch, MORE, CostTracker()) for one in (teacher, around))
    assert torch.equal(here.cls[3], there.cls[3])
    assert torch.equal(here.hidden[1], there.hidden[1])
    only = around(batch, replace(MORE, logits=False), CostTracker())
    assert only.logits is None
    assert torch.equal(only.cls[3], there.cls[3])
    assert around.shape == teacher.shape
    assert unwrap(around) is unwrap(Swapped(around)) is teacher
    hidden = OutputRequest(hidden=frozenset({1}))
    assert around.flops(hidden, 3, 5) == teacher.flops(hidden, 3, 5) > 0


@pytest.mark.parametrize("where", ["wrong", "all"])
def test_revised_logits_are_those_of_the_formula(where: str, teacher: ModelTeacher, batch: Batch) -> None:
    around, before = Revised(teacher, 0.7, where), logits(teacher, batch)  # type: ignore[arg-type]
    for label in range(3):
        asked = replace(batch, labels=torch.full((3,), label))
        p = before.double().softmax(-1)
        beta = 0.7 / (p.amax(-1, keepdim=True) - p[:, [label]] + 1)
        expected = beta * p + (1 - beta) * torch.eye(3)[label]
        if where == "wrong":
            expected = torch.where((before.argmax(-1) == label)[:, None], p, expected)
        assert torch.allclose(logits(around, asked).double().exp(), expected, atol=1e-6)
    assert around.flops(MORE, 3, 5) == teacher.flops(MORE, 3, 5)


def test_swapped_logits(teacher: ModelTeacher, batch: Batch) -> None:
    before, after = logits(teacher, batch), logits(Swapped(teacher), batch)
    for i, label in enumerate(batch.labels.tolist()):
        best = int(before[i].argmax())
        expected = before[i].tolist()
        expected[best], expected[label] = expected[label], expected[best]
        assert after[i].tolist() == expected


three = st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3)


@given(z=st.lists(three, min_size=1, max_size=4), label=st.integers(0, 2))
@settings(deadline=None)
def test_a_swap_moves_two_numbers_and_lets_the_label_lead(z: list[list[float]], label: int) -> None:
    before = torch.tensor(z)
    labels = torch.full((len(z),), label)
    after = swapped(before, labels)
    assert torch.equal(after.sort(-1).values, before.sort(-1).values)
    assert (after[:, label] == before.amax(-1)).all()
    assert ((after != before).sum(-1) <= 2).all()
    right = before[:, label] == before.amax(-1)
    assert torch.equal(after[right], before[right])


def test_fingerprints_tell_them_apart(teacher: ModelTeacher) -> None:
    other = Fixed([[0.0, 1.0, 2.0]], "other")
    first, second = Fixed([[0.0, 1.0, 2.0]], "first"), Fixed([[0.0, 1.0, 2.0]], "second")
    all_of_them: list[Teacher] = [
        teacher,
        Revised(teacher),
        Revised(teacher, 0.7),
        Revised(teacher, where="all"),
        Revised(other),
        Swapped(teacher),
        Swapped(other),
        Partitioned(teacher, first),
        Partitioned(teacher, second),
        Partitioned(teacher, first, "confidence"),
    ]
    assert len({one.fingerprint for one in all_of_them}) == len(all_of_them)
    assert Revised(teacher, 0.8).fingerprint == Revised(teacher).fingerprint


def test_it_goes_around_a_cache(teacher: ModelTeacher, tmp_path: Path) -> None:
    lengths = np.array([5, 3, 4])
    tokens = np.random.default_rng(0).integers(5, 50, lengths.sum())
    ids, offsets = np.array([7, 8, 9]), np.concatenate([[0], np.cumsum(lengths)])
    split = Split({"input_ids": tokens}, offsets, np.array([0, 1, 2]), ids, {"input_ids": 0})
    cache = Cache(
        tmp_path,
        name="test",
        teacher=teacher.fingerprint,
        shape=teacher.shape,
        examples=Examples(split.ids, split.lengths, split.fingerprint),
        fields=(OutputKey("logits"),),
        dtype="float32",
    )
    around, costs = Revised(Cached(teacher, cache)), CostTracker()
    batch = split.batch([0, 1, 2])
    first = around(batch, LOGITS, costs).logits
    assert costs.teacher_queries == 3
    again = around(batch, LOGITS, costs).logits
    other = around(replace(batch, labels=torch.tensor([2, 0, 1])), LOGITS, costs).logits
    assert (costs.teacher_queries, costs.cached_queries) == (3, 6)
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)  # kept is what the teacher said, not what was made of it
    assert torch.allclose(first, revised(logits(teacher, batch), batch.labels, eta=0.8), atol=1e-5)
    assert unwrap(around) is teacher


def test_partitions_by_the_labels_probability_or_by_confidence(make_batch: Callable[..., Batch]) -> None:
    theirs = Fixed([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0], [1.0, 0.0]])
    ours = Fixed([[1.0, 0.0], [0.0, 1.0], [0.0, 4.0], [3.0, 2.0]])
    asked = replace(make_batch((2, 2, 2, 2)), labels=torch.tensor([0, 0, 1, 0]))
    by_label, by_confidence = (logits(Partitioned(theirs, ours, by), asked) for by in ("label", "confidence"))
    # the last is a draw, which the initial student keeps
    assert torch.equal(by_label, torch.stack([theirs.logits[0], ours.logits[1], ours.logits[2], ours.logits[3]]))
    assert torch.equal(by_confidence, torch.stack([theirs.logits[0], theirs.logits[1], *ours.logits[2:]]))
    price = Partitioned(theirs, ours).flops(LOGITS, 4, 2)
    assert price == 2 * theirs.flops(LOGITS, 4, 2)


def test_partitions_tell_saturated_answers_apart(make_batch: Callable[..., Batch]) -> None:
    asked = replace(make_batch((2,)), labels=torch.tensor([0]))
    theirs, ours = Fixed([[-200.0, 0.0]]), Fixed([[-300.0, 0.0]])  # both give the label a probability of 0
    assert torch.equal(logits(Partitioned(theirs, ours), asked), theirs.logits)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Revised(Fixed([[1.0]])), "as for a regression"),
        (lambda: Revised(Fixed([[1.0, 2.0]]), 1.0), r"eta is 1\.0"),
        (lambda: Revised(Fixed([[1.0, 2.0]]), 0.5, "some"), "unknown place"),  # type: ignore[arg-type]
        (lambda: Swapped(Fixed([[1.0]])), "as for a regression"),
        (lambda: Partitioned(Fixed([[1.0]]), Fixed([[1.0]])), "as for a regression"),
        (lambda: Partitioned(Fixed([[1.0, 2.0]]), Fixed([[1.0, 2.0, 3.0]])), "2 classes and the student 3"),
        (lambda: Partitioned(Fixed([[1.0, 2.0]]), Fixed([[1.0, 2.0]]), "luck"), "unknown comparison"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Teacher], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
