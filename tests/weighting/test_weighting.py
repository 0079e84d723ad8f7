"""Losses on some of the examples, each weighed: against the plain step, the formula, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import models
from ackd.cohort.cohort import Cohort
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.knowledge import NAMES, build
from ackd.models import Meter, Model, shape_of
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import LABELS, Batch, Knowledge, OutputRequest, Outputs, Selection
from ackd.weighting.scores import TopFraction
from ackd.weighting.weighting import Answers, PickedRows, Together, Weighting
from tests.learned import weights
from tests.watched import Watched

LENGTHS = (7, 3, 5, 6, 4, 7)


@dataclass(frozen=True)
class Chosen(Weighting):
    """Rows and weights that a test says, by term."""

    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def counts(self, size: int, terms: Sequence[Knowledge]) -> Mapping[str, int]:
        return {one.name: len(self.rows[one.name]) for one in terms if one.name in self.rows}

    def pick(self, student: Outputs, batch: Batch, terms: Sequence[Knowledge]) -> Mapping[str, Tensor]:
        lists = {tuple(rows): torch.tensor(rows, dtype=torch.int64) for rows in self.rows.values()}
        return {one.name: lists[tuple(self.rows[one.name])] for one in terms if one.name in self.rows}

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        whole = {name: torch.tensor(values) for name, values in self.weights.items()}
        return {name: values[rows[name]] if name in rows else values for name, values in whole.items()}


class Counting(Weighting):
    """Learns how often it was asked, and weighs by it."""

    def __init__(self) -> None:
        self.calls = 0

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self.calls += 1
        return {LABELS: torch.full_like(answers.losses[LABELS], float(self.calls))}

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def small(layers: int, seed: int, width: int = 16) -> Model:
    """Without dropout, so that two passes agree."""
    config = models.small_config(50, 2, layers=layers, width=width, heads=2)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(config)()


@cache
def frozen() -> ModelTeacher:
    return ModelTeacher(small(4, 0))


@cache
def meter(width: int = 16) -> Meter:
    return Meter(small(2, 0, width))


def make(names: Sequence[str] = ("logits", "hidden"), *, width: int = 16, **given: Any) -> Distiller:
    model, teacher = small(2, 9, width), Watched(frozen())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        types = build(names, shape_of(model), teacher.shape)
    student = Student(model, types, steps=100, lr=1e-3)
    return Distiller(student, [teacher], types, meter=meter(width), costs=CostTracker(), **{"scale_steps": 0, **given})


def asked(distiller: Distiller) -> list[list[int]]:
    (teacher,) = distiller.teachers
    assert isinstance(teacher, Watched)
    return teacher.asked


def plain(batch: Batch) -> tuple[Tensor, Tensor]:
    """Label losses and KL at temperature 4 of each example, from the models' own outputs."""
    with torch.no_grad():
        ours, theirs = (model.eval()(**batch.inputs).logits.double() for model in (small(2, 9), small(4, 0)))
    kl = 16 * F.kl_div((ours / 4).log_softmax(-1), (theirs / 4).softmax(-1), reduction="none").sum(-1)
    return F.cross_entropy(ours, batch.labels, reduction="none"), kl


# RKD looks across examples, and FLOPs of the others do not depend on which rows there are
@pytest.mark.parametrize("width", [16, 8])
@pytest.mark.parametrize(
    "weighting",
    [
        PickedRows(TopFraction("margin", 1.0)),
        Chosen(weights={name: [1.0] * len(LENGTHS) for name in (*NAMES, LABELS)}),
        Together(PickedRows(TopFraction("random", 1.0)), PickedRows(TopFraction("loss", 1.0))),
    ],
)
def test_everything_picked_and_weighed_once_is_the_plain_step(
    make_batch: Callable[..., Batch], weighting: Weighting, width: int
) -> None:
    one, other = make(NAMES, width=width), make(NAMES, width=width, weighting=weighting)
    for seed in range(2):
        batch = make_batch(LENGTHS, seed=seed)
        expected, report = (each.step([batch], Selection.of(*NAMES)) for each in (one, other))
        assert torch.allclose(report.loss, expected.loss, rtol=1e-6)
        assert torch.allclose(report.grad_norm, expected.grad_norm, rtol=1e-5)
        for name in NAMES:
            assert torch.allclose(report.losses[name], expected.losses[name], rtol=1e-6, atol=1e-7)
    assert torch.allclose(weights(one), weights(other), atol=1e-5)
    assert asked(one) == asked(other)
    assert one.costs.flops == other.costs.flops
    assert one.costs.accounts == other.costs.accounts


def test_of_weights_of_one_every_bit_is_the_plain_steps(make_batch: Callable[..., Batch]) -> None:
    ones = Chosen(weights={name: [1.0] * len(LENGTHS) for name in ("logits", "hidden", LABELS)})
    one, other, thinned = make(), make(weighting=ones), make(example_filter=TopFraction("margin", 1.0))
    for seed in range(3):
        for each in (one, other, thinned):
            each.step([make_batch(LENGTHS, seed=seed)], Selection.of("logits", "hidden"))
    assert torch.equal(weights(one), weights(other))
    assert torch.equal(weights(one), weights(thinned))


@pytest.mark.parametrize(("keep", "count"), [(0.1, 1), (0.5, 3), (0.7, 4)])
def test_only_what_is_picked_is_asked_and_taught(make_batch: Callable[..., Batch], keep: float, count: int) -> None:
    batch, pick = make_batch(LENGTHS), TopFraction("entropy", keep)
    distiller = make(("logits",), weighting=PickedRows(pick))
    with torch.no_grad():
        rows = pick(small(2, 9).eval()(**batch.inputs).logits, batch.labels).tolist()
    labels, kl = plain(batch)
    report = distiller.step([batch], Selection({"logits": 0.5}, labels=2.0))
    assert asked(distiller) == [rows]
    assert distiller.costs.teacher_queries == len(rows) == count
    assert report.labels.item() == pytest.approx(labels.mean().item(), rel=1e-5)
    rounding = 16 * 16 * 2**-24  # of a small KL: 16 times a difference of terms near 1
    assert report.losses["logits"].item() == pytest.approx(kl[rows].mean().item(), abs=rounding)
    assert report.loss.item() == pytest.approx((2 * labels.mean() + 0.5 * kl[rows].mean()).item(), rel=1e-5)


def test_terms_have_rows_and_weights_of_their_own(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(LENGTHS)
    counted = {"logits": [0.5, 9.0, 2.0, 9.0, 3.0, 9.0], LABELS: [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    distiller = make(weighting=Chosen({"logits": [0, 2, 4], "hidden": [1]}, counted))
    labels, kl = plain(batch)
    report = distiller.step([batch], Selection.of("logits", "hidden"))
    assert asked(distiller) == [[0, 2, 4], [1]]
    expected = (labels * torch.arange(6.0)).mean() + (kl[[0, 2, 4]] * torch.tensor([0.5, 2.0, 3.0])).mean()
    assert report.loss.item() == pytest.approx((expected + report.losses["hidden"]).item(), rel=1e-5)
    assert report.losses["logits"].item() == pytest.approx(kl[[0, 2, 4]].mean().item(), rel=1e-4)
    alone = make(("hidden",)).step([batch.rows([1])], Selection.of("hidden"))
    assert report.losses["hidden"].item() == pytest.approx(alone.losses["hidden"].item(), rel=1e-5)


def test_an_empty_pick_counts_nothing_and_scales_nothing(make_batch: Callable[..., Batch]) -> None:
    batch, selection = make_batch(LENGTHS), Selection.of("logits")
    distiller = make(("logits",), weighting=Chosen({"logits": []}), scale_steps=1)
    labels = make(())
    for _ in range(2):
        report, expected = distiller.step([batch], selection), labels.step([batch], Selection())
        assert report.losses["logits"].item() == 0.0
        assert torch.equal(report.loss, expected.loss)
    assert torch.equal(weights(distiller), weights(labels))
    assert asked(distiller) == []
    assert distiller.costs.flops["teacher"] == distiller.costs.teacher_queries == 0
    distiller.weighting = None
    report = distiller.step([batch], selection)
    assert (report.loss - report.labels).item() == pytest.approx(1.0, rel=1e-5)


def test_together_is_what_both_pick_and_the_product_of_weights(make_batch: Callable[..., Batch]) -> None:
    first = Chosen({"logits": [0, 1, 2, 4], "hidden": [0, 1, 2, 4]}, {"logits": [2.0] * 6})
    second = Chosen({"logits": [1, 4, 5], "hidden": [1, 4, 5]}, {"logits": [0, 3.0, 0, 0, 5.0, 0], LABELS: [2.0] * 6})
    both, batch = Together(first, second), make_batch(LENGTHS)
    distiller = make(weighting=both)
    labels, kl = plain(batch)
    report = distiller.step([batch], Selection({"logits": 1.0, "hidden": 1e-12}))
    assert asked(distiller) == [[1, 4]]  # once, for both types
    expected = 2 * labels.mean() + (kl[[1, 4]] * torch.tensor([6.0, 10.0])).mean()
    assert report.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    terms = list(distiller.knowledge.values())
    assert both.counts(6, terms) == {"logits": 2, "hidden": 2}  # 6 * 4/6 * 3/6
    assert Together(Chosen(), second).counts(6, terms) == {"logits": 3, "hidden": 3}
    apart = make(weighting=Together(Chosen({"hidden": [0, 5]}), Chosen({"logits": [2]})))
    apart.step([batch], Selection.of("logits", "hidden"))
    assert sorted(asked(apart)) == [[0, 5], [2]]


def test_together_keeps_the_state_of_both() -> None:
    one, other = Together(Counting(), Together(PickedRows(TopFraction("loss", 0.5)), Counting())), Counting()
    assert isinstance(one.first, Counting)
    one.first.calls = 4
    again = Together(other, Together(PickedRows(TopFraction("loss", 0.5)), Counting()))
    again.load_state_dict(one.state_dict())
    assert other.calls == 4
    assert (
        again.state_dict()
        == one.state_dict()
        == {"first": {"calls": 4}, "second": {"first": {}, "second": {"calls": 0}}}
    )


def test_batches_that_accumulate_pick_each_for_themselves(make_batch: Callable[..., Batch]) -> None:
    batches = [make_batch(LENGTHS, seed=seed) for seed in range(2)]
    selection, weighting = Selection.of("logits"), PickedRows(TopFraction("margin", 0.5))
    distiller = make(("logits",), weighting=weighting)
    losses = [make(("logits",), weighting=weighting).step([batch], selection).loss for batch in batches]
    report = distiller.step(batches, selection)
    assert report.loss.item() == pytest.approx(sum(one.item() for one in losses) / 2, rel=1e-6)
    assert [len(ids) for ids in asked(distiller)] == [3, 3]
    assert distiller.costs.steps == 1


def test_a_thinned_batch_is_the_plain_step_on_what_is_kept(make_batch: Callable[..., Batch]) -> None:
    batch, pick = make_batch(LENGTHS), TopFraction("confidence", 0.5)
    with torch.no_grad():
        rows = pick(small(2, 9).eval()(**batch.inputs).logits, batch.labels).tolist()
    thinned, alone = make(example_filter=pick), make()
    one = thinned.step([batch], Selection.of("logits", "hidden"))
    other = alone.step([batch.rows(rows)], Selection.of("logits", "hidden"))
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(weights(thinned), weights(alone))
    assert asked(thinned) == [[batch.ids[row].item() for row in rows]]
    scoring = thinned.meter(OutputRequest(logits=True)).forward(*batch.shape)
    assert thinned.costs.flops["student"] - alone.costs.flops["student"] == scoring


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("example_filter", [False, True])
def test_price_and_accounts_are_the_closed_forms(
    make_batch: Callable[..., Batch], keep: float, example_filter: bool
) -> None:
    """F_S and F_T of a whole batch; the share r of it is picked."""
    size, length = 20, 6
    batch, pick = make_batch((length,) * size), TopFraction("margin", keep)
    distiller = make(("logits",), **({"example_filter": pick} if example_filter else {"weighting": PickedRows(pick)}))
    distiller.step([batch, batch], Selection.of("logits"))
    student = meter()(OutputRequest(logits=True)).forward(size, length)
    teacher = frozen().flops(OutputRequest(logits=True), size, length)
    ran = student + 2 * keep * student if example_filter else 2 * student
    accounts = {"as_run": ran + keep * teacher, "as_in_paper": student + keep * (teacher + student)}
    costs = distiller.costs
    assert costs.accounts == pytest.approx({name: 2 * value for name, value in accounts.items()}, rel=1e-9)
    # elsewhere backward counts as two forward passes
    price = student + 3 * keep * student + keep * teacher if example_filter else 3 * student + keep * teacher
    chosen = list(distiller.knowledge.values())
    assert distiller.flops(chosen, size, length) == pytest.approx(price, rel=1e-9)
    assert distiller.flops(chosen, size, length, whole=True) == pytest.approx(3 * student + teacher, rel=1e-9)
    assert costs.flops["student"] + costs.flops["teacher"] == pytest.approx(2 * price, rel=1e-9)


def test_accounts_know_labels_alone_shorter_picks_and_both_kinds_at_once(make_batch: Callable[..., Batch]) -> None:
    logits = OutputRequest(logits=True)
    student = meter()(logits)
    whole = student.forward(6, 7)
    alone = make(weighting=PickedRows(TopFraction("margin", 0.5)))
    alone.step([make_batch(LENGTHS)], Selection())
    assert alone.costs.accounts == {"as_run": 2 * whole, "as_in_paper": 2 * whole}
    some = make(("logits", "logits-mse"), weighting=Chosen({"logits": [1, 2], "logits-mse": [1, 4]}))
    some.step([make_batch(LENGTHS)], Selection.of("logits", "logits-mse"))
    taught = frozen().flops(logits, 2, 5) + frozen().flops(logits, 2, 4)
    assert some.costs.accounts == {"as_run": 2 * whole + taught, "as_in_paper": whole + student.forward(3, 5) + taught}
    both = make(
        ("logits",), example_filter=TopFraction("margin", 0.5), weighting=PickedRows(TopFraction("entropy", 0.5))
    )
    both.step([make_batch((7,) * 8)], Selection.of("logits"))
    whole, half, quarter = (student.forward(size, 7) for size in (8, 4, 2))
    taught = frozen().flops(logits, 2, 7)
    assert both.costs.accounts == {"as_run": whole + 2 * half + taught, "as_in_paper": whole + quarter + taught}


def distillation(make_weighting: Callable[[], Weighting] | None, **changes: Any) -> Distillation:
    """Tiny models with dropout."""
    parts = tiny(knowledge=("logits", "hidden"), student_width=8).distillation
    return Distillation(
        parts.task,
        parts.teachers,
        parts._make_student,
        parts._make_knowledge,
        make_weighting=make_weighting,
        **{"steps": 8, "batch_size": 8, "accumulate": 2, "lr": 1e-3, **changes},
    )


@pytest.mark.parametrize(
    ("make_weighting", "changes"),
    [
        (lambda: PickedRows(TopFraction("random", 0.5)), {}),
        (Counting, {}),
        (lambda: Together(Counting(), PickedRows(TopFraction("entropy-r", 0.25))), {}),
        (None, {"example_filter": TopFraction("random", 0.5)}),
    ],
)
def test_a_training_goes_on_where_it_was(
    make_weighting: Callable[[], Weighting] | None, changes: dict[str, Any], tmp_path: Path
) -> None:
    selection = Selection.of("logits", "hidden")
    straight, broken, resumed = (distillation(make_weighting, **changes) for _ in range(3))
    straight.reset(3)
    straight.advance(selection, 8)
    broken.reset(3)
    broken.advance(selection, 4)
    torch.save(broken.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed.advance(selection, 4)
    assert torch.equal(weights(straight), weights(resumed))
    assert resumed.counts.price == straight.counts.price
    assert resumed.costs.accounts == straight.costs.accounts
    assert resumed.costs.teacher_queries == straight.costs.teacher_queries


@pytest.mark.parametrize("keep", [1.0, 0.25])
def test_the_price_of_a_training_counts_what_is_picked(keep: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one type, whose picked rows are priced at the batch's length."""
    training = distillation(lambda: PickedRows(TopFraction("margin", keep)), accumulate=1)
    train, shapes = training.task.train, list[tuple[int, int]]()
    make_batch = train.batch

    def batch(indices: Any) -> Batch:
        made = make_batch(indices)
        shapes.append(made.shape)
        return made

    monkeypatch.setattr(train, "batch", batch)
    training.advance(Selection.of("logits"), 8)
    assert len(shapes) == 8
    student, teacher = training._meter(OutputRequest(logits=True)), training.teachers[0]
    expected = sum(
        3 * student.forward(size, length) + teacher.flops(OutputRequest(logits=True), int(keep * size), length)
        for size, length in shapes
    )
    assert training.counts.price == pytest.approx(expected, rel=1e-9)
    assert training.distiller.picks
    assert (training.counts.price < training.counts.price_of_all) or keep == 1.0


def test_a_cohort_refuses() -> None:
    for training in (
        distillation(lambda: PickedRows(TopFraction("margin", 0.5))),
        distillation(None, example_filter=TopFraction("loss", 0.5)),
    ):
        with pytest.raises(InputError, match="each picks or weighs its own"):
            Cohort(training, 2)


def test_a_cohort_has_both_accounts_too() -> None:
    alone, cohort, selection = distillation(None), Cohort(distillation(None), 2), Selection.of("logits")
    alone.reset(0)
    alone.advance(selection, 2)
    cohort.reset([0, 0])
    cohort.advance([selection] * 2, 2)
    taught = alone.costs.flops["teacher"]  # which a cohort asks once for all
    for name, value in cohort.costs.accounts.items():
        assert value - taught == pytest.approx(2 * (alone.costs.accounts[name] - taught), rel=1e-9)
