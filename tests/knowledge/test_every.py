"""What holds for every knowledge type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ackd.knowledge import NAMES, build
from ackd.types import Batch, Knowledge, ModelDims, OutputKey, Outputs

Tensors = dict[OutputKey, Tensor]
MAPS = ["uniform", "0:1,0:3,1:3"]

every = pytest.mark.parametrize("name", NAMES)


def asked(outputs: Outputs, loss: Knowledge) -> Tensors:
    return {field: outputs[field] for field in loss.student_needs.fields}


def changed(outputs: Outputs, change: Callable[[OutputKey, Tensor], Tensor]) -> Outputs:
    layered = {kind: getattr(outputs, kind) for kind in ("cls", "hidden", "attention", "queries", "keys", "values")}
    tensors = {OutputKey(kind, layer): value for kind, those in layered.items() for layer, value in those.items()}
    assert outputs.logits is not None
    tensors[OutputKey("logits")] = outputs.logits
    return Outputs.of({field: change(field, value) for field, value in tensors.items()})


def spoiled(outputs: Outputs, mask: Tensor, size: float) -> Outputs:
    """With numbers of this size wherever there is padding."""
    generator = torch.Generator().manual_seed(7)

    def spoil(field: OutputKey, value: Tensor) -> Tensor:
        if field.kind in ("logits", "cls"):
            return value
        valid = mask[:, :, None] if field.kind != "attention" else (mask[:, :, None] * mask[:, None, :])[:, None]
        return value.where(valid.bool(), size * torch.randn(value.shape, generator=generator, dtype=value.dtype))

    return changed(outputs, spoil)


def lengthened(outputs: Outputs, more: int) -> Outputs:
    def longer(field: OutputKey, value: Tensor) -> Tensor:
        if field.kind in ("logits", "cls"):
            return value
        return torch.nn.functional.pad(value, (0, more, 0, more) if field.kind == "attention" else (0, 0, 0, more))

    return changed(outputs, longer)


def value_and_gradients(loss: Knowledge, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Tensor, Tensors]:
    tensors = {field: value.clone().requires_grad_() for field, value in asked(student, loss).items()}
    value = loss(Outputs.of(tensors), teacher, batch)
    gradients = torch.autograd.grad(value.sum(), [*tensors.values(), *loss.parameters()])
    return value.detach(), dict(
        zip([*tensors, *(OutputKey(n) for n, _ in loss.named_parameters())], gradients, strict=True)
    )


@pytest.mark.parametrize("layers", MAPS)
@every
def test_gradients_equal_finite_differences(
    name: str,
    layers: str,
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    batch = batch_of([3, 2, 1], 4)
    student, teacher = (outputs_of(shape, 3, 4, k) for k, shape in enumerate((small, large)))
    (loss,) = build([name], small, large, layers=layers)
    loss = loss.double()
    fields = loss.student_needs.fields

    def total(*values: Tensor) -> Tensor:
        return loss(Outputs.of(dict(zip(fields, values, strict=True))), teacher, batch).sum()  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(total, tuple(v.clone().requires_grad_() for v in asked(student, loss).values()))


@every
def test_a_student_that_equals_its_teacher_loses_nothing(
    name: str, small: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    outputs = outputs_of(small, 3, 5, 0)
    (loss,) = build([name], small, small)
    value, gradients = value_and_gradients(loss, outputs, outputs, batch_of([5, 2, 1], 5))
    if name != "logits-soft-ce":  # at its least it is the teacher's entropy
        assert value.abs().max() < 1e-12
    assert max(one.abs().max() for one in gradients.values()) < 1e-7


@given(lengths=st.lists(st.integers(1, 5), min_size=2, max_size=4), size=st.sampled_from([1.0, 1e8, 1e200]))
@settings(max_examples=10, deadline=None)
@every
def test_what_stands_at_padding_changes_nothing(
    name: str,
    lengths: list[int],
    size: float,
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    """Not even numbers whose squares overflow: neither the loss, nor a gradient, to outputs or projection."""
    batch = batch_of(lengths, 6)
    student, teacher = (outputs_of(shape, len(lengths), 6, k) for k, shape in enumerate((small, large)))
    (loss,) = build([name], small, large)
    loss = loss.double()
    value, gradients = value_and_gradients(loss, student, teacher, batch)
    other, others = value_and_gradients(
        loss, spoiled(student, batch.mask, size), spoiled(teacher, batch.mask, -size), batch
    )
    assert torch.allclose(other, value, rtol=1e-10, atol=1e-13)
    for field, gradient in gradients.items():
        assert torch.allclose(others[field], gradient, rtol=1e-8, atol=1e-12), field


@every
def test_more_padding_changes_nothing(
    name: str, small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    student, teacher = (outputs_of(shape, 2, 4, k) for k, shape in enumerate((small, large)))
    (loss,) = build([name], small, large)
    loss = loss.double()
    short = loss(student, teacher, batch_of([4, 2], 4))
    long = loss(lengthened(student, 3), lengthened(teacher, 3), batch_of([4, 2], 7))
    assert torch.allclose(short, long, rtol=1e-10)


@every
def test_an_example_is_alone_in_its_loss_but_for_types_that_compare_examples(
    name: str, small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    batch = batch_of([4, 3, 2], 4)
    student, teacher, other = (outputs_of(shape, 3, 4, k) for k, shape in enumerate((small, large, small)))
    (loss,) = build([name], small, large)
    loss = loss.double()
    second = torch.tensor([0, 1, 0]).bool()
    mixed = changed(student, lambda field, v: other[field].where(second.view(3, *[1] * (v.dim() - 1)), v))
    before, after = (loss(one, teacher, batch) for one in (student, mixed))
    alone = not name.startswith(("rkd", "similarity"))
    assert (after != before).tolist() == ([False, True, False] if alone else [True] * 3)


@every
def test_losses_work_under_vmap(
    name: str, small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    batch = batch_of([4, 2, 3], 5)
    teacher = outputs_of(large, 3, 5, 9)
    (loss,) = build([name], small, large)
    loss = loss.double()
    students = [asked(outputs_of(small, 3, 5, seed), loss) for seed in range(3)]
    stacked = [torch.stack([student[field] for student in students]) for field in loss.student_needs.fields]

    def one(*values: Tensor) -> Tensor:
        outputs = Outputs.of(dict(zip(loss.student_needs.fields, values, strict=True)))
        return loss(outputs, teacher, batch)  # type: ignore[no-any-return]

    def gradient(*values: Tensor) -> tuple[Tensor, ...]:
        indices = tuple(range(len(values)))
        return torch.func.grad(lambda *v: one(*v).sum(), argnums=indices)(*values)  # type: ignore[no-any-return]

    apart = [value_and_gradients(loss, Outputs.of(student), teacher, batch) for student in students]
    assert torch.allclose(torch.func.vmap(one)(*stacked), torch.stack([value for value, _ in apart]), atol=1e-12)
    for field, together in zip(loss.student_needs.fields, torch.func.vmap(gradient)(*stacked), strict=True):
        assert torch.allclose(together, torch.stack([those[field] for _, those in apart]), atol=1e-12), field


@every
def test_half_precision_goes_no_further_than_the_outputs(
    name: str, small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    batch = batch_of([4, 2, 3], 5)
    student, teacher = (
        changed(outputs_of(shape, 3, 5, k), lambda _, v: v.bfloat16()) for k, shape in enumerate((small, large))
    )
    (loss,) = build([name], small, large)
    half = loss(student, teacher, batch)
    full = loss(*(changed(one, lambda _, v: v.float()) for one in (student, teacher)), batch)
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


@every
def test_autocast_reaches_nothing_but_projections(
    name: str, small: ModelDims, large: ModelDims, batch_of: Callable[..., Batch], outputs_of: Callable[..., Outputs]
) -> None:
    batch = batch_of([4, 2, 3], 5)
    outputs, target = (changed(outputs_of(large, 3, 5, k), lambda _, v: v.float()) for k in range(2))
    student = changed(outputs_of(small, 3, 5, 2), lambda _, v: v.float())
    (same,), (other,) = (build([name], shape, large) for shape in (large, small))
    full, projected = same(outputs, target, batch), other(student, target, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(same(outputs, target, batch), full)
        half = other(student, target, batch)
    assert half.dtype == torch.float32
    assert torch.allclose(half, projected, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("layers", MAPS)
@pytest.mark.parametrize("wider", [False, True])
@every
def test_flops_are_those_of_the_matrix_products(
    name: str,
    wider: bool,
    layers: str,
    small: ModelDims,
    large: ModelDims,
    batch_of: Callable[..., Batch],
    outputs_of: Callable[..., Outputs],
) -> None:
    shapes = (small if wider else ModelDims(2, 9, 3, 3, 50), large)
    student, teacher = (outputs_of(shape, 3, 5, k) for k, shape in enumerate(shapes))
    (loss,) = build([name], *shapes, layers=layers)
    loss = loss.double()
    with FlopCounterMode(display=False) as counter:
        value_and_gradients(loss, student, teacher, batch_of([5, 3, 1], 5))
    assert loss.flops(3, 5) == counter.get_total_flops()
