"""One learning step: what is not selected is neither computed nor paid for, and the mixture is the formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import models
from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.knowledge import DEFAULT, NAMES, build
from ackd.models import Meter, Model, run, shape_of
from ackd.teachers import ModelTeacher
from ackd.training.distiller import Distiller
from ackd.training.recipe import Recipe
from ackd.training.student import Student
from ackd.types import LAYERED, Batch, OutputKey, OutputRequest, Outputs, Selection
from tests.learned import weights
from tests.watched import Watched

Fields = set[OutputKey]


def small(layers: int, seed: int, *, width: int = 16) -> Model:
    """Without dropout, so that two passes agree."""
    config = models.small_config(50, 2, layers=layers, width=width, heads=2)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(config)()


def make_distiller(
    names: Sequence[str] = DEFAULT,
    *,
    depths: Sequence[int] = (4,),
    width: int = 16,
    scale_steps: int = 0,
    lr: float = 1e-3,
    clip: float = 1.0,
    precision: Precision = "fp32",
    compiled: bool = False,
    layers: int = 2,
    teacher_weights: Sequence[float] = (),
) -> Distiller:
    """A student of these layers, and a teacher of each depth with the named types; of several, `logits@1` and so on."""
    model = small(layers, seed=9, width=width)
    teachers = [Watched(ModelTeacher(small(depth, seed=k))) for k, depth in enumerate(depths)]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        knowledge = [
            one
            for m, teacher in enumerate(teachers)
            for one in build(
                names,
                shape_of(model),
                teacher.shape,
                teacher_place=m,
                suffix=f"@{m + 1}" if len(depths) > 1 else "",
            )
        ]
    student = Student(model, knowledge, steps=100, lr=lr, recipe=Recipe(gradient_clipping=clip), compiled=compiled)
    return Distiller(
        student,
        teachers,
        knowledge,
        meter=Meter(model),
        costs=CostTracker(),
        teacher_weights=teacher_weights,
        scale_steps=scale_steps,
        precision=precision,
    )


def asked(distiller: Distiller, place: int = 0) -> list[OutputRequest]:
    teacher = distiller.teachers[place]
    assert isinstance(teacher, Watched)
    return teacher.needs


def kept(outputs: Outputs) -> Fields:
    logits = set() if outputs.logits is None else {OutputKey("logits")}
    return logits | {OutputKey(kind, layer) for kind in LAYERED for layer in getattr(outputs, kind)}


def watch(distiller: Distiller, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Fields, Fields]]]:
    """What each type's loss is given of the student and of the teacher, by the type's name, call by call."""
    calls: dict[str, list[tuple[Fields, Fields]]] = {name: [] for name in distiller.knowledge}

    def watched(name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
            calls[name].append((kept(student), kept(teacher)))
            return forward(student, teacher, batch)

        return call

    for name, one in distiller.knowledge.items():
        monkeypatch.setattr(one, "forward", watched(name, one.forward))
    return calls


def test_labels_alone_never_ask_the_teacher(make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    distiller = make_distiller(NAMES)
    calls = watch(distiller, monkeypatch)
    report = distiller.step([make_batch()], Selection())
    assert asked(distiller) == []
    assert not any(calls.values())
    assert not report.losses
    assert torch.equal(report.loss, report.labels)
    costs = distiller.costs
    assert costs.flops["teacher"] == costs.flops["knowledge"] == costs.teacher_queries == 0
    assert costs.flops["student"] == 3 * Meter(small(2, seed=0))(OutputRequest(logits=True)).forward(3, 7)


@pytest.mark.parametrize("name", NAMES)
def test_one_type_asks_for_its_own_needs_alone(
    make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    distiller = make_distiller(NAMES)
    calls = watch(distiller, monkeypatch)
    one = distiller.knowledge[name]
    distiller.step([make_batch()], Selection({other: float(other == name) for other in NAMES}))
    assert asked(distiller) == [one.teacher_needs]
    assert {other: len(those) for other, those in calls.items()} == {other: int(other == name) for other in NAMES}
    student, teacher = calls[name][0]
    assert student == {OutputKey("logits"), *one.student_needs.fields}
    assert teacher == set(one.teacher_needs.fields)
    assert distiller.costs.teacher_queries == 3


@pytest.mark.parametrize("name", NAMES)
def test_without_one_type_nothing_is_asked_for_it(
    make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Everything else selected: the outputs that only this type needs are missing, on both sides."""
    distiller = make_distiller(NAMES)
    calls = watch(distiller, monkeypatch)
    others = [one for other, one in distiller.knowledge.items() if other != name]
    distiller.step([make_batch()], Selection.of(*(one.name for one in others)))
    assert not calls[name]
    assert {field for needs in asked(distiller) for field in needs.fields} == {
        field for one in others for field in one.teacher_needs.fields
    }
    student = {OutputKey("logits"), *(field for one in others for field in one.student_needs.fields)}
    assert all(calls[one.name][0][0] == student for one in others)


def by_hand(model: Model, teacher: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """CE, KL at temperature 4 and hidden loss (uniform map) from the models' own outputs."""
    student = model(**batch.inputs, output_hidden_states=True)
    with torch.no_grad():
        answer = teacher(**batch.inputs, output_hidden_states=True)
    depth = teacher.config.num_hidden_layers
    kl = 16 * F.kl_div((student.logits / 4).log_softmax(-1), (answer.logits / 4).softmax(-1), reduction="batchmean")
    rows = [
        (student.hidden_states[s][i, :n] - answer.hidden_states[t][i, :n]).square().mean()
        for i, n in enumerate(batch.lengths.tolist())
        for s, t in ((1, depth // 2), (2, depth))
    ]
    return F.cross_entropy(student.logits, batch.labels), kl, torch.stack(rows).mean()


def test_the_step_is_the_formula(make_batch: Callable[..., Batch]) -> None:
    distiller, batch = make_distiller(), make_batch((6, 4, 2))
    labels, kl, hidden = by_hand(small(2, seed=9), small(4, seed=0), batch)
    report = distiller.step([batch], Selection({"logits": 0.5, "hidden": 2.0}, labels=0.25))
    rounding = 16 * 16 * 2**-24  # of a small KL: 16 times a difference of terms near 1
    assert report.loss.item() == pytest.approx((0.25 * labels + 0.5 * kl + 2.0 * hidden).item(), rel=1e-5)
    assert report.labels.item() == pytest.approx(labels.item(), rel=1e-5)
    assert report.losses["logits"].item() == pytest.approx(kl.item(), abs=rounding)
    assert report.losses["hidden"].item() == pytest.approx(hidden.item(), rel=1e-5)


def test_the_gradient_norm_covers_student_and_projections(make_batch: Callable[..., Batch]) -> None:
    batch, selection = make_batch((6, 4, 2)), Selection.of("hidden")
    distiller, twin = make_distiller(width=8, clip=1e-3), make_distiller(width=8)
    one = twin.knowledge["hidden"]
    student = run(twin.student.model, batch, OutputRequest(logits=True) | one.student_needs)
    answer = twin.teachers[0](batch, one.teacher_needs, CostTracker())
    assert student.logits is not None
    loss = F.cross_entropy(student.logits, batch.labels) + one(student, answer, batch).mean()
    parameters = [*twin.student.model.parameters(), *one.parameters()]
    assert len(list(one.parameters())) == 2
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
    clipped: list[float] = []

    def total(*_: object) -> None:
        clipped.append(sum(float(p.grad.square().sum()) for p in distiller.student.parameters if p.grad is not None))

    distiller.student.optimizer.register_step_pre_hook(total)
    assert distiller.step([batch], selection).grad_norm.item() == pytest.approx(norm, rel=1e-4)
    assert clipped[0] ** 0.5 == pytest.approx(1e-3, rel=1e-3)


def test_several_teachers_are_weighed_and_each_is_asked_for_its_own(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch((6, 4, 2))
    distiller = make_distiller(depths=(4, 2), teacher_weights=(0.25, 3.0))
    assert tuple(distiller.knowledge) == (*(f"{name}@1" for name in DEFAULT), *(f"{name}@2" for name in DEFAULT))
    labels, kl, _ = by_hand(small(2, seed=9), small(4, seed=0), batch)
    _, _, hidden = by_hand(small(2, seed=9), small(2, seed=1), batch)
    report = distiller.step([batch], Selection({"logits@1": 0.5, "hidden@2": 2.0}))
    expected = labels + 0.25 * 0.5 * kl + 3.0 * 2.0 * hidden
    assert report.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert asked(distiller, 0) == [OutputRequest(logits=True)]
    assert asked(distiller, 1) == [OutputRequest(hidden=frozenset({0, 1}))]
    assert distiller.costs.teacher_queries == 6
    distiller.step([batch], Selection.of("logits@2", "attention@2"))
    assert len(asked(distiller, 0)) == 1
    assert asked(distiller, 1)[1] == OutputRequest(logits=True, attention=frozenset({0, 1}))


@pytest.mark.parametrize("width", [16, 8])
def test_two_batches_make_the_step_of_one(make_batch: Callable[..., Batch], width: int) -> None:
    """Of what does not look across examples, which RKD does."""
    names = [name for name in NAMES if not name.startswith(("rkd", "similarity"))]
    parts = [make_batch((6, 6, 6, 6), seed=seed) for seed in range(2)]
    inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs}
    whole = Batch(torch.arange(8), inputs, torch.cat([part.labels for part in parts]))
    apart, together = (make_distiller(names, width=width, lr=1e-2) for _ in range(2))
    for _ in range(3):
        one = apart.step(parts, Selection.of(*names))
        other = together.step([whole], Selection.of(*names))
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-4)
        assert one.labels.item() == pytest.approx(other.labels.item(), rel=1e-4)
        assert one.grad_norm.item() == pytest.approx(other.grad_norm.item(), rel=1e-3)
        assert one.losses.keys() == other.losses.keys()
        for name in names:
            assert one.losses[name].item() == pytest.approx(other.losses[name].item(), rel=1e-3, abs=1e-6)
    assert torch.allclose(weights(apart), weights(together), atol=1e-4)
    assert apart.costs.steps == together.costs.steps == 3
    assert apart.costs.flops == pytest.approx(together.costs.flops)


def test_scales_bring_losses_to_one_size_and_then_stay(make_batch: Callable[..., Batch]) -> None:
    distiller = make_distiller(scale_steps=2, lr=1e-2)
    reports = [distiller.step([make_batch(seed=seed)], Selection({"hidden": 1.0})) for seed in range(4)]
    raw = [report.losses["hidden"].item() for report in reports]
    scaled = [report.loss.item() - report.labels.item() for report in reports]
    assert scaled[0] == pytest.approx(1.0, rel=1e-4)
    fixed = (raw[0] + raw[1]) / 2
    for i in (1, 2, 3):
        assert scaled[i] == pytest.approx(raw[i] / fixed, rel=1e-3)


def test_the_teacher_is_outside_the_student(make_batch: Callable[..., Batch]) -> None:
    distiller = make_distiller(NAMES)
    (watched,) = distiller.teachers
    assert isinstance(watched, Watched)
    teacher = watched.teacher.model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    mine = {id(p) for group in distiller.student.optimizer.param_groups for p in group["params"]}
    assert not mine & {id(p) for p in teacher.parameters()}
    first = watched(make_batch(), OutputRequest(logits=True), CostTracker()).logits
    for _ in range(3):
        distiller.step([make_batch()], Selection.of(*NAMES))
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    again = watched(make_batch(), OutputRequest(logits=True), CostTracker()).logits
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert not again.requires_grad


def test_more_padding_changes_no_loss(make_batch: Callable[..., Batch]) -> None:
    batches = make_batch((6, 4)), make_batch((6, 4), extra=5)
    short, long = (make_distiller(NAMES).step([batch], Selection.of(*NAMES)) for batch in batches)
    for name in NAMES:
        assert short.losses[name].item() == pytest.approx(long.losses[name].item(), rel=1e-4, abs=1e-6)
    assert short.labels.item() == pytest.approx(long.labels.item(), rel=1e-5)


@pytest.mark.parametrize("names", [("hidden",), ("logits", "attention")])
def test_without_their_weight_labels_teach_nothing(make_batch: Callable[..., Batch], names: tuple[str, ...]) -> None:
    """Whatever they say, the step is the same; and what only they would teach does not move."""
    batch = make_batch((6, 4, 2))
    other = Batch(batch.ids, batch.inputs, 1 - batch.labels)
    distillers = [make_distiller() for _ in range(2)]
    head = distillers[0].student.model.classifier.weight.detach().clone()
    for distiller, given in zip(distillers, (batch, other), strict=True):
        for _ in range(2):
            report = distiller.step([given], Selection(dict.fromkeys(names, 1.0), labels=0.0))
        assert report.loss.item() == pytest.approx(sum(report.losses[name].item() for name in names), rel=1e-6)
    assert torch.equal(*map(weights, distillers))
    moved = not torch.equal(distillers[0].student.model.classifier.weight, head)
    assert moved == ("logits" in names), "the head learned from nothing (weight decay?)"


def test_nothing_selected_is_no_selection() -> None:
    with pytest.raises(ValueError, match="nothing is selected"):
        Selection({"logits": 0.0}, labels=0.0)


def test_unknown_types_are_an_error(make_batch: Callable[..., Batch]) -> None:
    with pytest.raises(KeyError, match="relations"):
        make_distiller().step([make_batch()], Selection.of("relations"))


def test_half_precision_is_close_and_keeps_float32_where_it_learns(make_batch: Callable[..., Batch]) -> None:
    full, half = make_distiller(NAMES), make_distiller(NAMES, precision="bf16")
    for seed in range(3):
        reports = [one.step([make_batch((7, 5, 4), seed=seed)], Selection.of(*NAMES)) for one in (full, half)]
        assert reports[1].loss.dtype == torch.float32
        assert reports[1].loss.item() == pytest.approx(reports[0].loss.item(), rel=0.03)
        assert reports[1].loss.item() != reports[0].loss.item()
    assert all(p.dtype == torch.float32 for p in half.student.parameters)
    moments: list[Any] = [value for state in half.student.optimizer.state.values() for value in state.values()]
    assert all(value.dtype == torch.float32 for value in moments if value.is_floating_point())
    assert not torch.equal(weights(half), weights(make_distiller(NAMES)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler looks at every tensor's
def test_compiled_steps_equal_eager_ones(make_batch: Callable[..., Batch]) -> None:
    eager, compiled = (make_distiller(depths=(2,), layers=1, compiled=compiled) for compiled in (False, True))
    selections = [Selection.of(*DEFAULT), Selection(), Selection.of(*DEFAULT)]
    for seed, selection in enumerate(selections):
        batch = make_batch((7, 5, 4), seed=seed, extra=seed)
        one, other = (distiller.step([batch], selection) for distiller in (eager, compiled))
        assert other.loss.item() == pytest.approx(one.loss.item(), rel=1e-4)
        for name in selection.chosen:
            assert other.losses[name].item() == pytest.approx(one.losses[name].item(), rel=1e-4)
        assert other.grad_norm.item() == pytest.approx(one.grad_norm.item(), rel=1e-3)
