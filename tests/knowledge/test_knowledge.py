"""Every loss against a plain computation by loops, in float64; padding must have no part in any."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ackd.errors import InputError
from ackd.knowledge import Attention, Hidden, Logits, build, label_loss, layer_map
from ackd.types import Batch, Knowledge, Outputs, Shape

STUDENT = Shape(layers=2, width=6, heads=3, classes=3, vocabulary=50)
TEACHER = Shape(layers=4, width=9, heads=3, classes=3, vocabulary=50)
PAIRS = ((0, 1), (1, 3))


def batch_of(lengths: list[int], longest: int) -> Batch:
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    return Batch(torch.arange(len(lengths)), {"attention_mask": mask}, torch.zeros(len(lengths), dtype=torch.int64))


def random_outputs(shape: Shape, size: int, length: int, seed: int) -> Outputs:
    g = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=g, dtype=torch.float64)

    return Outputs(
        draw(size, shape.classes),
        {layer: draw(size, length, shape.width) for layer in range(shape.layers)},
        {layer: draw(size, shape.heads, length, length) for layer in range(shape.layers)},
    )


def kl_by_hand(z_teacher: Tensor, z_student: Tensor, tau: float) -> list[float]:
    result = []
    for t_row, s_row in zip(z_teacher.tolist(), z_student.tolist(), strict=True):
        p, q = ([math.exp(z / tau) for z in row] for row in (t_row, s_row))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        result.append(tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return result


def hidden_by_hand(loss: Hidden, student: Outputs, teacher: Outputs, lengths: list[int]) -> list[float]:
    weight, bias = (parameter.detach().numpy() for parameter in loss.projection.parameters())
    result = []
    for i, length in enumerate(lengths):
        errors = []
        for s, t in PAIRS:
            for token in range(length):
                projected = weight @ student.hidden[s][i, token].numpy() + bias
                errors.append(np.mean((projected - teacher.hidden[t][i, token].numpy()) ** 2))
        result.append(float(np.mean(errors)))
    return result


def attention_by_hand(student: Outputs, teacher: Outputs, lengths: list[int]) -> list[float]:
    result = []
    for i, n in enumerate(lengths):
        errors = [
            (student.attention[s][i, head, q, k] - teacher.attention[t][i, head, q, k]).item() ** 2
            for s, t in PAIRS
            for head in range(3)
            for q in range(n)
            for k in range(n)
        ]
        result.append(sum(errors) / len(errors))
    return result


lengths_strategy = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(lengths=lengths_strategy, seed=st.integers(0, 1000), tau=st.floats(0.5, 10))
@settings(max_examples=30, deadline=None)
def test_losses_equal_plain_loops(lengths: list[int], seed: int, tau: float) -> None:
    longest = max(lengths) + 2
    batch = batch_of(lengths, longest)
    student = random_outputs(STUDENT, len(lengths), longest, seed)
    teacher = random_outputs(TEACHER, len(lengths), longest, seed + 1)
    assert student.logits is not None
    assert teacher.logits is not None
    hidden = Hidden(STUDENT, TEACHER, PAIRS).double()
    expected = {
        Logits(temperature=tau): kl_by_hand(teacher.logits, student.logits, tau),
        hidden: hidden_by_hand(hidden, student, teacher, lengths),
        Attention(STUDENT, TEACHER, PAIRS): attention_by_hand(student, teacher, lengths),
    }
    for loss, values in expected.items():
        with torch.no_grad():
            assert loss(student, teacher, batch).tolist() == pytest.approx(values, rel=1e-9, abs=1e-12), loss.name


@pytest.mark.parametrize("name", ["logits", "hidden", "attention"])
def test_gradients_equal_finite_differences(name: str) -> None:
    batch = batch_of([3, 2], 4)
    teacher = random_outputs(TEACHER, 2, 4, 1)
    (loss,) = build([name], STUDENT, TEACHER)
    loss = loss.double()
    start = random_outputs(STUDENT, 2, 4, 0)
    assert start.logits is not None

    def total(logits: Tensor, hidden: Tensor, attention: Tensor) -> Tensor:
        outputs = Outputs(logits, {0: hidden, 1: hidden * 2}, {0: attention, 1: attention * 2})
        return torch.as_tensor(loss(outputs, teacher, batch).sum())

    inputs = (start.logits, start.hidden[0], start.attention[0])
    assert torch.autograd.gradcheck(total, tuple(value.clone().requires_grad_() for value in inputs))


@pytest.mark.parametrize("name", ["logits", "hidden", "attention"])
def test_a_student_that_equals_its_teacher_loses_nothing(name: str) -> None:
    outputs = random_outputs(STUDENT, 2, 5, 0)
    (loss,) = build([name], STUDENT, STUDENT)
    values = loss(outputs, outputs, batch_of([5, 2], 5))
    assert values.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("name", ["hidden", "attention"])
def test_what_stands_at_padding_changes_nothing(name: str) -> None:
    batch = batch_of([4, 2], 6)
    (loss,) = build([name], STUDENT, STUDENT)
    student, teacher = (random_outputs(STUDENT, 2, 6, seed) for seed in (0, 1))
    before = loss(student, teacher, batch)
    for layer in range(2):
        student.hidden[layer][1, 2:] += 100
        student.attention[layer][1, :, 2:] += 100
        student.attention[layer][1, :, :, 2:] += 100
    assert torch.equal(loss(student, teacher, batch), before)


def test_an_example_is_alone_in_its_loss() -> None:
    """A changed example changes its own entry and no other, whatever the type."""
    batch = batch_of([4, 3, 2], 4)
    student, teacher = (random_outputs(shape, 3, 4, seed) for shape, seed in ((STUDENT, 0), (TEACHER, 1)))
    assert student.logits is not None
    for loss in build(["logits", "hidden", "attention"], STUDENT, TEACHER):
        loss = loss.double()
        before = loss(student, teacher, batch).detach()
        changed = Outputs(
            student.logits.clone(),
            {k: v.clone() for k, v in student.hidden.items()},
            {k: v.clone() for k, v in student.attention.items()},
        )
        assert changed.logits is not None
        changed.logits[1] += torch.tensor([1.0, 0.0, -1.0])
        for values in (*changed.hidden.values(), *changed.attention.values()):
            values[1] += 1
        after = loss(changed, teacher, batch).detach()
        assert (after != before).tolist() == [False, True, False], loss.name


def test_losses_work_under_vmap() -> None:
    batch = batch_of([4, 2], 5)
    teacher = random_outputs(STUDENT, 2, 5, 9)
    students = [random_outputs(STUDENT, 2, 5, seed) for seed in range(3)]
    stacked = torch.stack([s.hidden[0] for s in students]), torch.stack([s.attention[0] for s in students])
    for loss in build(["hidden", "attention"], STUDENT, STUDENT, layers="0:0"):

        def one(hidden: Tensor, attention: Tensor, loss: Knowledge = loss) -> Tensor:
            return torch.as_tensor(loss(Outputs(None, {0: hidden}, {0: attention}), teacher, batch))

        together = torch.func.vmap(one)(*stacked)
        apart = torch.stack([loss(s, teacher, batch) for s in students])
        assert torch.allclose(together, apart, atol=1e-12)


def test_label_loss() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    expected = [math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(1.0))]
    assert label_loss(logits, torch.tensor([0, 0])).tolist() == pytest.approx(expected)
    assert label_loss(torch.tensor([[1.5], [0.0]]), torch.tensor([1.0, 2.0])).tolist() == [0.25, 4.0]


def test_logits_of_a_regression_are_compared_by_their_square() -> None:
    batch = batch_of([1, 1], 1)
    student, teacher = (Outputs(torch.tensor([[a], [b]])) for a, b in ((1.0, 2.0), (3.0, 2.5)))
    assert Logits()(student, teacher, batch).tolist() == [4.0, 0.25]


@pytest.mark.parametrize(
    ("rule", "depths", "expected"),
    [
        ("uniform", (6, 12), [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        ("skip", (6, 12), [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9)]),  # PKD-skip: 1, 3, 5, 7, 9
        ("skip", (6, 24), [(0, 3), (1, 7), (2, 11), (3, 15), (4, 19)]),
        ("last", (6, 12), [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10)]),
        ("last", (3, 12), [(0, 9), (1, 10)]),
        ("uniform", (4, 4), [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ("0:1, 2:5,1:5", (3, 6), [(0, 1), (2, 5), (1, 5)]),
    ],
)
def test_layer_maps(rule: str, depths: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert list(layer_map(rule, *depths)) == expected


@pytest.mark.parametrize(
    ("rule", "depths", "words"),
    [
        ("unifrom", (3, 6), ["'unifrom'", "did you mean 'uniform'"]),
        ("0:6", (3, 6), ["teacher layer 6", "6 layers", "0 to 5"]),
        ("3:1", (3, 6), ["student layer 3", "3 layers"]),
        ("uniform", (6, 3), ["6 layers", "3"]),
        ("last", (1, 6), ["'last'", "'uniform'"]),
        ("0:1,", (3, 6), ["unknown layer map", "'0:1,'"]),
    ],
)
def test_layer_maps_out_of_range_are_refused(rule: str, depths: tuple[int, int], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        layer_map(rule, *depths)
    for word in words:
        assert word in str(caught.value)


def test_mismatches_are_named() -> None:
    with pytest.raises(InputError, match=r"6 and 9.*projection"):
        Hidden(STUDENT, TEACHER, PAIRS, project=False)
    other_heads = Shape(layers=4, width=9, heads=9, classes=3, vocabulary=50)
    with pytest.raises(InputError, match="3 attention heads and the teacher 9"):
        Attention(STUDENT, other_heads, PAIRS)
    with pytest.raises(InputError, match="temperature must be above 0, got 0"):
        Logits(temperature=0)
    with pytest.raises(InputError, match="'atention': did you mean 'attention'"):
        build(["atention"], STUDENT, TEACHER)
    with pytest.raises(InputError, match="named twice"):
        build(["logits", "logits"], STUDENT, TEACHER)


def test_only_a_needed_projection_is_made(make_batch: Callable[..., Batch]) -> None:
    assert not list(Hidden(STUDENT, STUDENT, ((0, 0),)).parameters())
    assert [tuple(p.shape) for p in Hidden(STUDENT, TEACHER, PAIRS).parameters()] == [(9, 6), (9,)]
