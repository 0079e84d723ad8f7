from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ackd.errors import InputError
from ackd.knowledge import label_loss
from ackd.models import Model, run
from ackd.training.recipe import Recipe
from ackd.training.student import Student
from ackd.types import Batch, OutputRequest


def learn(student: Student, batch: Batch, steps: int) -> None:
    for _ in range(steps):
        logits = run(student.model, batch, OutputRequest(logits=True)).logits
        assert logits is not None
        label_loss(logits, batch.labels).mean().backward()
        student.update()


def test_it_goes_on_from_its_state_bit_for_bit(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch()
    one = Student(make_model().eval(), [nn.Linear(2, 2)], steps=10, lr=1e-3)
    learn(one, batch, 3)
    state = one.state_dict()
    learn(one, batch, 4)
    other = Student(make_model(seed=9).eval(), [nn.Linear(2, 2)], steps=10, lr=1e-3)
    other.load_state_dict(state)
    learn(other, batch, 4)
    for a, b in zip(one.parameters, other.parameters, strict=True):
        assert torch.equal(a, b)
    assert one.schedule.get_last_lr() == other.schedule.get_last_lr()


def test_the_schedule_rises_and_ends_at_zero(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch]
) -> None:
    student, batch = Student(make_model(), steps=20, recipe=Recipe(warmup=0.2)), make_batch()
    rates = []
    for _ in range(20):
        rates.append(student.schedule.get_last_lr()[0] / 5e-5)
        learn(student, batch, 1)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([(20 - step) / 16 for step in range(4, 20)])
    assert student.schedule.get_last_lr() == [0.0, 0.0]
    assert rates == pytest.approx([Recipe(warmup=0.2).rate(step, 20) for step in range(20)])


def test_what_follows_the_rise_is_as_the_schedule_says() -> None:
    """As MiniPLM's `WarmupCosineAnnealingLR` with a least rate of a tenth: least + (1 - least) (1 + cos(pi t)) / 2."""
    cosine, constant = (Recipe(schedule=name, warmup=0.1) for name in ("cosine", "constant"))
    for step in range(10, 101):
        course = (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert cosine.rate(step, 100) == pytest.approx(0.1 + 0.9 * course)
        assert constant.rate(step, 100) == 1.0
    assert [cosine.rate(step, 100) for step in range(10)] == [constant.rate(step, 100) for step in range(10)]
    assert Recipe(warmup=0.0).rate(0, 100) == 1.0
    assert Recipe(warmup=1.0).rate(99, 100) == 1.0


def test_adam_has_the_recipes_betas(make_model: Callable[..., Model]) -> None:
    student = Student(make_model(), steps=5, recipe=Recipe(adam_betas=(0.9, 0.98)))
    assert {group["betas"] for group in student.optimizer.param_groups} == {(0.9, 0.98)}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"warmup": 1.1}, "warm-up is 1.1"),
        ({"weight_decay": -1.0}, "weight decay is -1.0"),
        ({"adam_betas": (0.9, 1.0)}, "betas are"),
        ({"gradient_clipping": -1.0}, "clipped at -1.0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Recipe(**wrong)


@pytest.mark.parametrize("rate", [1e300, 1e-3, -1e-5, float("nan"), None])
def test_a_saved_rate_that_is_not_the_schedules_is_refused(
    make_model: Callable[..., Model], make_batch: Callable[..., Batch], rate: float | None
) -> None:
    student, other = Student(make_model(), steps=20), Student(make_model(), steps=20)
    learn(student, make_batch(), 3)
    state = student.state_dict()
    if rate is not None:
        state["optimizer"]["param_groups"][0]["lr"] = rate
    else:
        state["schedule"]["last_epoch"] = 4  # of another step
    with pytest.raises(ValueError, match="is that of another training"):
        other.load_state_dict(state)


def test_clipping_covers_the_companions(make_model: Callable[..., Model], make_batch: Callable[..., Batch]) -> None:
    projection = nn.Linear(4, 4)
    student = Student(make_model(), [projection], steps=5, recipe=Recipe(gradient_clipping=1e-3))
    seen: list[float] = []

    def total(*_: object) -> None:
        seen.append(sum(float(p.grad.square().sum()) for p in student.parameters if p.grad is not None) ** 0.5)

    student.optimizer.register_step_pre_hook(total)
    (projection(torch.ones(2, 4)).square().sum() * 100).backward()
    norm = student.update()
    assert norm > 1
    assert seen[0] == pytest.approx(1e-3, rel=1e-3)


def test_gradients_add_up_until_the_update(make_model: Callable[..., Model]) -> None:
    """In parts or at once, the same step; and the next one begins without a gradient."""
    projections = [nn.Linear(4, 4) for _ in range(2)]
    projections[1].load_state_dict(projections[0].state_dict())
    one, other = (
        Student(make_model(), [projection], steps=5, recipe=Recipe(gradient_clipping=1e9)) for projection in projections
    )
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for part in (inputs[:2], inputs[2:]):
        (projections[0](part).square().sum() / 6).backward()
    (projections[1](inputs).square().sum() / 6).backward()
    norms = [student.update() for student in (one, other)]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-5)
    assert torch.allclose(projections[0].weight, projections[1].weight, atol=1e-7)
    assert all(p.grad is None for p in one.parameters)


def test_biases_and_norms_do_not_decay(make_model: Callable[..., Model]) -> None:
    student = Student(make_model(), steps=5, recipe=Recipe(weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in student.optimizer.param_groups for p in group["params"]}
    for name, parameter in student.model.named_parameters():
        assert decay[id(parameter)] == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.5), name
