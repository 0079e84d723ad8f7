"""One learning step: what is not selected is neither computed nor paid for, and the mixture is the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ackd.distiller import Distiller, Prices
from ackd.knowledge import NAMES, build
from ackd.ledger import Ledger
from ackd.models import Model, cost_of, from_layers, run, shape_of
from ackd.student import Student
from ackd.teachers import ModelTeacher
from ackd.types import Batch, Needs, Outputs, Selection, Shape


class Watched:
    """A teacher that notes what it is asked."""

    def __init__(self, model: Model) -> None:
        self.teacher = ModelTeacher(model)
        self.asked: list[Needs] = []

    @property
    def shape(self) -> Shape:
        return self.teacher.shape

    def __call__(self, batch: Batch, needs: Needs) -> Outputs:
        self.asked.append(needs)
        return self.teacher(batch, needs)


@pytest.fixture
def make_distiller(make_model: Callable[..., Model]) -> Callable[..., Distiller]:
    def make(*, scale_steps: int = 0, names: tuple[str, ...] = NAMES, lr: float = 1e-3) -> Distiller:
        teacher = make_model(seed=1)
        model = from_layers(teacher, 2)()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for layer in model.bert.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        watched = Watched(teacher)
        knowledge = build(names, shape_of(model), watched.shape)
        student = Student(model, knowledge, steps=100, lr=lr)
        prices = Prices(cost_of(model), cost_of(teacher))
        return Distiller(student, watched, knowledge, prices=prices, ledger=Ledger(), scale_steps=scale_steps)

    return make


def asked(distiller: Distiller) -> list[Needs]:
    assert isinstance(distiller.teacher, Watched)
    return distiller.teacher.asked


def test_labels_alone_never_ask_the_teacher(
    make_distiller: Callable[..., Distiller], make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    distiller = make_distiller()
    for one in distiller.knowledge.values():
        monkeypatch.setattr(one, "forward", lambda *_: pytest.fail("a loss ran that was not selected"))
    report = distiller.step(make_batch(), Selection())
    assert asked(distiller) == []
    assert not report.losses
    assert torch.equal(report.loss, report.labels)
    ledger = distiller.ledger
    assert ledger.flops["teacher"] == ledger.flops["knowledge"] == ledger.teacher_queries == 0
    assert ledger.flops["student"] == 3 * distiller.prices.student.forward(3, 7)


@pytest.mark.parametrize("name", NAMES)
def test_one_type_asks_for_its_own_needs_alone(
    make_distiller: Callable[..., Distiller],
    make_batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    distiller = make_distiller()
    needs: list[Needs] = []

    def watched_run(model: Model, batch: Batch, need: Needs) -> Outputs:
        needs.append(need)
        return run(model, batch, need)

    monkeypatch.setattr("ackd.distiller.run", watched_run)
    for other, one in distiller.knowledge.items():
        if other != name:
            monkeypatch.setattr(one, "forward", lambda *_: pytest.fail("a loss ran that was not selected"))
    distiller.step(make_batch(), Selection({name: 1.0, **{other: 0.0 for other in NAMES if other != name}}))
    assert asked(distiller) == [distiller.knowledge[name].teacher_needs]
    assert needs == [Needs(logits=True) | distiller.knowledge[name].student_needs]
    assert distiller.ledger.teacher_queries == 3


def test_the_step_is_the_formula(make_distiller: Callable[..., Distiller], make_batch: Callable[..., Batch]) -> None:
    distiller, batch = make_distiller(), make_batch((6, 4, 2))
    model = distiller.student.model
    assert distiller.teacher is not None
    selection = Selection({"logits": 0.5, "hidden": 2.0})
    everything = Needs(True, frozenset({0, 1, 3}), frozenset())
    student = run(model, batch, Needs(True, frozenset({0, 1})))
    answer = distiller.teacher(batch, everything)
    assert student.logits is not None
    assert answer.logits is not None
    kl = 16 * F.kl_div((student.logits / 4).log_softmax(-1), (answer.logits / 4).softmax(-1), reduction="batchmean")
    hidden = torch.stack(
        [
            torch.stack(
                [(student.hidden[s][i, :n] - answer.hidden[t][i, :n]).square().mean() for i, n in enumerate((6, 4, 2))]
            )
            for s, t in ((0, 1), (1, 3))
        ]
    ).mean()
    expected = F.cross_entropy(student.logits, batch.labels) + 0.5 * kl + 2.0 * hidden
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    report = distiller.step(batch, selection)
    assert report.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert report.losses["logits"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert report.losses["hidden"].item() == pytest.approx(hidden.item(), rel=1e-5)
    assert report.grad_norm.item() == pytest.approx(norm.item(), rel=1e-4)


def test_scales_bring_losses_to_one_size_and_then_stay(
    make_distiller: Callable[..., Distiller], make_batch: Callable[..., Batch]
) -> None:
    distiller = make_distiller(scale_steps=2, lr=1e-2)
    selection = Selection({"hidden": 1.0})
    batches = [make_batch(seed=seed) for seed in range(4)]
    reports = [distiller.step(batch, selection) for batch in batches]
    raw = [report.losses["hidden"].item() for report in reports]
    scaled = [report.loss.item() - report.labels.item() for report in reports]
    assert scaled[0] == pytest.approx(1.0, rel=1e-4)
    fixed = (raw[0] + raw[1]) / 2
    for i in (1, 2, 3):
        assert scaled[i] == pytest.approx(raw[i] / fixed, rel=1e-3)


def test_the_teacher_is_outside_the_student(
    make_distiller: Callable[..., Distiller], make_batch: Callable[..., Batch]
) -> None:
    distiller = make_distiller()
    assert isinstance(distiller.teacher, Watched)
    teacher = distiller.teacher.teacher.model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    mine = {id(p) for group in distiller.student.optimizer.param_groups for p in group["params"]}
    assert not mine & {id(p) for p in teacher.parameters()}
    first = distiller.teacher(make_batch(), Needs(logits=True)).logits
    for _ in range(3):
        distiller.step(make_batch(), Selection.of(*NAMES))
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    again = distiller.teacher(make_batch(), Needs(logits=True)).logits
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert not again.requires_grad


def test_a_masked_example_changes_no_loss(
    make_distiller: Callable[..., Distiller], make_batch: Callable[..., Batch]
) -> None:
    """The same examples padded further give the same losses."""
    short, long = make_batch((6, 4)), make_batch((6, 4), extra=5)
    reports = [make_distiller().step(batch, Selection.of(*NAMES)) for batch in (short, long)]
    for name in NAMES:
        assert reports[0].losses[name].item() == pytest.approx(reports[1].losses[name].item(), rel=1e-4)
    assert reports[0].labels.item() == pytest.approx(reports[1].labels.item(), rel=1e-5)


def test_unknown_types_are_an_error(make_distiller: Callable[..., Distiller], make_batch: Callable[..., Batch]) -> None:
    with pytest.raises(KeyError, match="relations"):
        make_distiller().step(make_batch(), Selection.of("relations"))
