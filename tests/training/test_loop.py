"""The plain loop: batches, precision, state, and teachers whose answers are no numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ackd import knowledge, models
from ackd.cohort.cohort import Cohort
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.presets import preset
from ackd.stages import Stage
from ackd.teachers import Cached, ModelTeacher, Revised
from ackd.teachers.cache.store import Cache, Examples
from ackd.teachers.cached import _Answer
from ackd.training.distillation import Distillation
from ackd.training.loop import distill
from ackd.types import Batch, ModelDims, OutputKey, OutputRequest, Outputs, Selection, Teacher
from tests.learned import weights

ALL = Selection.of(*knowledge.DEFAULT)


def make(*, teachers: tuple[Teacher, ...] | None = None, width: int | None = 8, **changes: Any) -> Distillation:
    """The tiny pair, 12 steps of 8 examples if nothing else is said."""
    parts = tiny(student_width=width).distillation
    setting: dict[str, Any] = {
        "make_knowledge": tuple if teachers == () else parts._make_knowledge,
        "steps": 12,
        "batch_size": 8,
    }
    return Distillation(
        parts.task,
        parts.teachers if teachers is None else teachers,
        parts._make_student,
        **{**setting, "lr": 1e-3, **changes},
    )


class Poisoned:
    """The tiny teacher, but it answers NaN in one kind of output for some examples."""

    def __init__(self, kind: str, examples: set[int]) -> None:
        (self.inner,) = tiny().distillation.teachers
        self.kind, self.examples = kind, examples
        self.fingerprint = f"poisoned-{kind}"

    @property
    def shape(self) -> ModelDims:
        return self.inner.shape

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        answer = self.inner(batch, needs, costs)
        bad = torch.tensor([int(example) in self.examples for example in batch.ids])

        def poison(field: OutputKey) -> Tensor:
            value = answer[field]
            if field.kind != self.kind:
                return value
            return value.masked_fill(bad.view(-1, *[1] * (value.dim() - 1)), torch.nan)

        return Outputs.of({field: poison(field) for field in needs.fields})

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return self.inner.flops(needs, size, length)


class Late:
    """Stands for what a GPU has not sent yet."""

    came = False

    def query(self) -> bool:
        return self.came

    def synchronize(self) -> None:
        self.came = True


@pytest.mark.parametrize("students", [1, 2])
def test_what_is_on_its_way_into_a_cache_is_kept_at_the_end_of_a_phase(tmp_path: Path, students: int) -> None:
    (teacher,), train = make().teachers, make().task.train
    examples, logits = Examples(train.ids, train.lengths, train.fingerprint), OutputKey("logits")
    cache = Cache(
        tmp_path, name="x", teacher=teacher.fingerprint, shape=teacher.shape, examples=examples, fields=[logits]
    )
    cached, row = Cached(teacher, cache), np.array([5])
    answer: Any = _Answer(row, {logits: torch.ones(1, 2, dtype=torch.float16)}, Late())  # type: ignore[arg-type]
    cached._pending.append(answer)
    training = make(teachers=(Revised(cached),))
    if students == 1:
        training.advance(Selection(), 1)  # which asks no teacher
    else:
        Cohort(training, students).advance([Selection()] * students, 1)
    assert cache.has([logits], row).all()


@pytest.mark.parametrize("kind", ["logits", "hidden", "attention"])
def test_answers_that_are_no_numbers_are_blamed_on_their_examples(kind: str) -> None:
    ids = make().task.train.ids
    bad = {int(ids[3]), int(ids[40]), int(ids[200])}
    distillation = make(teachers=(Poisoned(kind, bad),), steps=2 * len(ids) // 8)
    with pytest.raises(InputError) as refused:
        distill(distillation, ALL, interval=len(ids) // 8)
    said = str(refused.value)
    assert said.startswith(f"the teacher answers NaN or infinity ({kind}) for the examples ")
    named = {int(part) for part in said.split(" examples ")[1].split(":")[0].split(", ")}
    assert named
    assert named <= bad  # those of the first batch that has one
    # what nobody asks for is nobody's trouble
    others = Selection.of(*(name for name in knowledge.DEFAULT if name != kind))
    distill(make(teachers=(Poisoned(kind, set(ids.tolist())),), steps=2), others)


def test_a_student_that_diverges_is_not_the_teachers_fault() -> None:
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        distill(make(lr=1e30), ALL)


def test_labels_alone_need_no_sane_teacher() -> None:
    parts = tiny().distillation
    (teacher,) = parts.teachers
    assert isinstance(teacher, ModelTeacher)
    model = copy.deepcopy(teacher.model)
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    distillation = make(teachers=(ModelTeacher(model),))
    reports = distill(distillation, Selection())
    assert all(report.finite for report in reports)
    with pytest.raises(InputError, match=r"answers NaN or infinity \(logits\)"):
        distill(distillation, ALL)


@pytest.mark.parametrize("name", ["steps", "batch_size", "accumulate", "lr"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_have_to_be_above_0(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"must be above 0, got {value}"):
        make(**{name: value})


def test_accumulated_batches_are_those_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of two batches see the batches that twice as many steps see, in the same order."""
    seen: list[list[int]] = []
    one, other = make(steps=4, accumulate=2), make(steps=8)
    train = one.task.train
    make_batch = train.batch

    def batch(indices: Any) -> Batch:
        seen.append(np.asarray(indices).tolist())
        return make_batch(indices)

    monkeypatch.setattr(train, "batch", batch)
    distill(one, ALL, seed=1)
    distill(other, ALL, seed=1)
    assert len(seen) == 16
    assert seen[:8] == seen[8:]
    assert one.costs.steps == 4
    assert other.costs.steps == 8
    assert one.costs.teacher_queries == other.costs.teacher_queries == 64
    assert one.counts.price == pytest.approx(other.counts.price, rel=1e-12)


def test_half_precision_trains_and_keeps_float32_weights() -> None:
    distillation = make(precision="bf16", teachers=tuple(half(tiny().distillation.teachers)), steps=20, lr=3e-3)
    losses = [report.labels for report in distill(distillation, ALL, interval=5)]
    assert losses[-1] < losses[0]
    assert all(value.dtype == torch.float32 for value in distillation.student.model.state_dict().values())
    eval_result = distillation.evaluate(distillation.task.reward, "reward")
    assert eval_result.finite


def half(teachers: Any) -> list[Teacher]:
    return [ModelTeacher(copy.deepcopy(teacher.model), precision="bf16") for teacher in teachers]


def test_a_bf16_teacher_is_another_teacher() -> None:
    (full,) = tiny().distillation.teachers
    (other,) = half([full])
    assert full.fingerprint != other.fingerprint
    assert full.fingerprint == ModelTeacher(copy.deepcopy(full.model)).fingerprint  # type: ignore[attr-defined]


def test_a_stage_that_would_never_come_is_refused() -> None:
    stages = [Stage(0.75, ALL), Stage(0.25, Selection.of("logits"))]
    distillation = make(stages=stages)
    before = weights(distillation)
    for interval in (12, 20):
        with pytest.raises(InputError, match=f"12 steps with a decision every {interval} leave out a stage of the 2"):
            distill(distillation, distillation.staged, interval=interval, seed=1)
    assert torch.equal(weights(distillation), before)
    assert len(distill(distillation, distillation.staged, interval=9)) == 2
    assert len(distill(distillation, ALL)) == 1  # whoever selects for himself may
    assert len(distill(make(), lambda done: ALL)) == 1


def test_staged_training_goes_on_from_its_state_bit_for_bit() -> None:
    """Saved within the first stage; the rest is as if nothing had happened, prices and ledger included."""
    parts = tiny(student_width=8).distillation
    shapes = models.shape_of(parts.student.model), [parts.teachers[0].shape]

    def made() -> Distillation:
        stages = preset("tinybert", *shapes).stages
        losses = lambda: preset("tinybert", *shapes).knowledge  # noqa: E731
        return make(accumulate=2, scale_steps=0, stages=stages, make_knowledge=losses)

    one = made()
    one.reset(3)
    one.advance(one.staged(0), 5)
    state = one.state_dict()
    twin = one.fork()
    other = made()
    other.load_state_dict(state)
    for distillation in (one, twin, other):
        while distillation.steps_done < distillation.steps:
            distillation.advance(distillation.staged(distillation.steps_done), 5)
        assert torch.equal(weights(distillation), weights(one))
        assert distillation.counts.price == one.counts.price
        assert distillation.counts.price_of_all == one.counts.price_of_all
        assert distillation.costs.flops == one.costs.flops
        assert distillation.costs.bytes == one.costs.bytes
        assert distillation.costs.teacher_queries == one.costs.teacher_queries == 12 * 2 * 8


def test_without_a_teacher_labels_train_alone() -> None:
    distillation = make(teachers=())
    report = distill(distillation, Selection())[-1]
    assert report.finite
    assert distillation.counts.price == distillation.counts.price_of_all == distillation.costs.flops["student"]
    assert distillation.evaluate(distillation.task.reward, "reward").finite
