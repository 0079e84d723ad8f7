"""Dynamic distillation against the published formulas, written out here in float64, and where its code broke down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ackd import distill, models, prepare, tasks
from ackd.config.methods import PUBLISHED
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import Hidden, Logits, LogitsMse
from ackd.models import Meter, Model, shape_of
from ackd.presets import METHODS, Preset, preset
from ackd.presets.dynamickd import ADOPTIONS
from ackd.presets.uncertain import UncertainHalf, UncertainObjectives, UncertainTeachers
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import EMBEDDINGS, Batch, Knowledge, ModelDims, OutputRequest, Outputs, Selection
from ackd.weighting.scores import TopFraction
from ackd.weighting.weighting import Answers, PickedRows, Together
from tests.learned import weights
from tests.watched import Watched

LENGTHS = (7, 4, 6, 3, 5)
CLASSES = 3


def model(layers: int, seed: int, *, width: int = 16, classes: int = CLASSES, dropout: float = 0.0) -> Model:
    config = models.small_config(50, classes, layers=layers, width=width, heads=2, dropout=dropout)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(config)()


@cache
def frozen(depth: int, classes: int) -> ModelTeacher:
    return ModelTeacher(model(depth, depth, classes=classes, dropout=0.2))


@cache
def meter(width: int, classes: int) -> Meter:
    return Meter(model(2, 0, width=width, classes=classes))


@dataclass
class System:
    """A preset over a student of 2 layers, a small teacher of 2 and a large one of 4, and what its step is made of."""

    made: Preset
    distiller: Distiller
    teachers: list[Watched]

    @classmethod
    def of(
        cls, names: str, *, classes: int = CLASSES, width: int = 16, depths: Sequence[int] = (), **options: Any
    ) -> System:
        depths = depths or ((2, 4) if METHODS[names.split(",")[-1]].teachers[0] == 2 else (4,))
        student = model(2, 9, width=width, classes=classes)
        teachers = [Watched(frozen(depth, classes)) for depth in depths]
        with torch.random.fork_rng():
            torch.manual_seed(3)
            made = preset(names, shape_of(student), [one.shape for one in teachers], **options)
        distiller = Distiller(
            Student(student, made.knowledge, steps=100, lr=1e-3),
            teachers,
            made.knowledge,
            meter=meter(width, classes),
            costs=CostTracker(),
            scale_steps=0,
            weighting=made.weighting,
            example_filter=made.example_filter,
        )
        return cls(made, distiller, teachers)

    def loss(self, batch: Batch) -> float:
        (stage,) = self.made.stages
        return self.distiller.step([batch], stage.selection).loss.item()


@dataclass
class Plain:
    """What a model says of a batch, in float64."""

    logits: Tensor
    states: Sequence[Tensor]

    @classmethod
    def of(cls, one: Model, batch: Batch) -> Plain:
        with torch.no_grad():
            said = one.double().eval()(**batch.inputs, output_hidden_states=True)
        return cls(said.logits, said.hidden_states)

    @property
    def p(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def u(self) -> Tensor:
        return -(self.p * self.p.log()).sum(-1) / math.log(self.p.shape[-1])


def distance(student: Plain, teacher: Plain, loss: str, tau: float = 5.0) -> Tensor:
    """D of each example."""
    if loss == "mse":
        return (student.logits - teacher.logits).square().mean(-1)
    p, q = (teacher.logits / tau).softmax(-1), (student.logits / tau).softmax(-1)
    return tau**2 * (p * (p / q).log()).sum(-1)


def representation(student: Plain, teacher: Plain, project: nn.Module, normalise: bool = True) -> Tensor:
    """R of each example, for a student of 2 layers and a teacher of 4."""
    rows = []
    for i, n in enumerate(LENGTHS):
        total = torch.zeros((), dtype=torch.float64)
        for mine, theirs in ((0, 0), (1, 2), (2, 4)):
            a, b = project(student.states[mine][i, :n]), teacher.states[theirs][i, :n]
            if normalise:
                a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
            total = total + (a - b).square().mean()
        rows.append(total)
    return torch.stack(rows).detach()


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(LENGTHS, classes=CLASSES, extra=2)


def labels_of(student: Plain, batch: Batch) -> Tensor:
    return -student.p.log()[torch.arange(len(batch.labels)), batch.labels]


def plain_pair(batch: Batch, depth: int = 4, width: int = 16) -> tuple[Plain, Plain]:
    return Plain.of(model(2, 9, width=width), batch), Plain.of(model(depth, depth), batch)


@pytest.mark.parametrize("loss", ["mse", "kl"])
@pytest.mark.parametrize(
    ("train_on", "keep", "score"), [("all", 0.5, "margin"), ("all", 0.3, "entropy-r"), ("kept", 0.5, "margin")]
)
def test_data_is_its_formula(batch: Batch, train_on: str, keep: float, score: str, loss: str) -> None:
    student, teacher = plain_pair(batch)
    sorted_p = student.p.sort(-1).values
    by = {"margin": sorted_p[:, -1] - sorted_p[:, -2], "entropy-r": student.u}[score]
    kept = sorted(by.argsort()[: int(len(by) * keep)].tolist())
    labels = labels_of(student, batch)
    expected = (labels if train_on == "all" else labels[kept]).mean() + distance(student, teacher, loss)[kept].mean()
    system = System.of("dynamickd-data", keep=keep, score=score, train_on=train_on, loss=loss)
    assert system.loss(batch) == pytest.approx(expected.item(), rel=1e-5)
    assert system.teachers[0].asked == [kept]
    assert system.distiller.costs.teacher_queries == len(kept)


@pytest.mark.parametrize("loss", ["mse", "kl"])
@pytest.mark.parametrize("adoption", ADOPTIONS)
def test_teacher_is_its_formula(batch: Batch, adoption: str, loss: str) -> None:
    student, large = plain_pair(batch)
    small = Plain.of(model(2, 2), batch)
    to_small, to_large = distance(student, small, loss), distance(student, large, loss)
    u, half = student.u, len(LENGTHS) // 2
    order = (-u).argsort().tolist()
    expected = labels_of(student, batch).mean() + {
        "hard": to_small[order[:half]].mean() + to_large[order[half:]].mean(),
        "soft": u.mean() * to_small.mean() + (1 - u.mean()) * to_large.mean(),
        "instance": (u * to_small + (1 - u) * to_large).mean(),
        "average": (to_small.mean() + to_large.mean()) / 2,
    }[adoption]  # fmt: skip
    system = System.of("dynamickd-teacher", adoption=adoption, loss=loss)
    assert system.loss(batch) == pytest.approx(expected.item(), rel=1e-5)
    everyone = list(range(len(LENGTHS)))
    halves = [sorted(order[:half]), sorted(order[half:])] if adoption == "hard" else [everyone, everyone]
    assert [one.asked for one in system.teachers] == [[those] for those in halves]


@pytest.mark.parametrize("width", [16, 8])
@pytest.mark.parametrize(
    ("options", "of_outputs", "of_states"),
    [
        ({}, lambda u: 1 - u, lambda u: u),
        ({"loss": "kl", "tau": 2.0, "beta": 4.0}, lambda u: 1 - u, lambda u: 4 * u),
        ({"reverse": True}, lambda u: u, lambda u: 1 - u),
        ({"weights": "static", "normalise": False}, torch.ones_like, torch.ones_like),
    ],
)
def test_objective_is_its_formula(
    batch: Batch,
    options: dict[str, Any],
    of_outputs: Callable[[Tensor], Tensor],
    of_states: Callable[[Tensor], Tensor],
    width: int,
) -> None:
    student, teacher = plain_pair(batch, width=width)
    system = System.of("dynamickd-objective", width=width, **options)
    (hidden,) = (one for one in system.made.knowledge if isinstance(one, Hidden))
    assert isinstance(hidden.projection, nn.Linear) == (width != 16)
    project = hidden.projection.double()
    distances = distance(student, teacher, options.get("loss", "mse"), options.get("tau", 5.0))
    states = representation(student, teacher, project, options.get("normalise", True))
    hidden.projection.float()
    expected = labels_of(student, batch) + of_outputs(student.u) * distances + of_states(student.u) * states
    assert system.loss(batch) == pytest.approx(expected.mean().item(), rel=1e-5)


def test_normalised_states_have_no_length_and_no_padding(make_batch: Callable[..., Batch]) -> None:
    shapes, pairs = (shape_of(model(2, 0)), shape_of(model(2, 1))), ((EMBEDDINGS, EMBEDDINGS), (1, 1))
    one = Hidden(*shapes, pairs, normalise=True)
    batch, generator = make_batch((4, 2)), torch.Generator().manual_seed(0)
    ours, theirs = ({k: torch.randn(2, 4, 16, generator=generator) for k in (EMBEDDINGS, 1)} for _ in range(2))
    value = one(Outputs(hidden=ours), Outputs(hidden=theirs), batch)
    longer = {k: states * torch.rand(2, 4, 1, generator=generator).add(0.5) for k, states in ours.items()}
    longer[1][1, 2:] = 0.0  # padding, where a length of 0 may be
    assert torch.allclose(one(Outputs(hidden=longer), Outputs(hidden=theirs), batch), value, rtol=1e-5)
    assert one(Outputs(hidden=ours), Outputs(hidden=longer), batch).abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(
        one(Outputs(hidden={**longer, 1: longer[1].requires_grad_()}), Outputs(hidden=theirs), batch).sum(), longer[1]
    )
    assert torch.isfinite(gradient).all()
    assert not gradient[1, 2:].any()


def answers(logits: Tensor, losses: dict[str, Tensor], make_batch: Callable[..., Batch]) -> Answers:
    return Answers(make_batch((3,) * len(logits)), Outputs(logits), {}, losses)


def two() -> list[Knowledge]:
    """Outputs of a small and of a large teacher."""
    small, large = LogitsMse(name="small"), LogitsMse(name="large")
    large.teacher = 1
    return [small, large]


@pytest.mark.parametrize("each", [False, True])
def test_the_unsure_learn_from_the_small_teacher_and_the_sure_from_the_large(
    make_batch: Callable[..., Batch], each: bool
) -> None:
    for logits, share in ((torch.zeros(4, 3), 1.0), (1e4 * torch.eye(3)[[0, 1, 2, 0]], 0.0)):
        weights = UncertainTeachers(each).weigh(answers(logits, {}, make_batch), two(), {})
        assert weights["small"].tolist() == pytest.approx([share] * 4, abs=1e-6)
        assert weights["large"].tolist() == pytest.approx([1 - share] * 4, abs=1e-6)
    mixed = torch.cat([torch.zeros(1, 3), 1e4 * torch.eye(3)])
    weights = UncertainTeachers(each).weigh(answers(mixed, {}, make_batch), two(), {"small": torch.tensor([0, 2])})
    assert weights["small"].tolist() == pytest.approx([1.0, 0.0] if each else [0.25, 0.25], abs=1e-6)
    assert weights["large"].tolist() == pytest.approx([0.0, 1, 1, 1] if each else [0.75] * 4, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(2, 5), st.booleans(), st.integers(0, 999))
def test_halves_split_every_batch_and_the_unsure_go_to_the_small_teacher(
    size: int, classes: int, ties: bool, seed: int
) -> None:
    logits = torch.randn(size, classes, generator=torch.Generator().manual_seed(seed)) * (0 if ties else 5)
    ids = torch.ones(size, 2, dtype=torch.int64)
    batch = Batch(torch.arange(size), {"input_ids": ids, "attention_mask": ids}, ids[:, 0])
    half, terms = UncertainHalf(), two()
    rows = half.pick(Outputs(logits), batch, terms)
    small, large = rows["small"].tolist(), rows["large"].tolist()
    assert sorted(small + large) == list(range(size))
    assert (len(small), len(large)) == (size // 2, size - size // 2)
    assert half.counts(size, terms) == {"small": len(small), "large": len(large)}
    assert small == sorted(small)
    u = -(logits.double().softmax(-1) * logits.double().log_softmax(-1)).sum(-1)
    assert not small or u[small].min() >= u[large].max() - 1e-6


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("rule", ["soft", "instance", "objective"])
def test_gradient_passes_through_the_weights_only_if_attached(
    make_batch: Callable[..., Batch], rule: str, attached: bool
) -> None:
    generator = torch.Generator().manual_seed(2)
    logits, target = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    loss = (logits - target).square().mean(-1)
    weighting = {
        "soft": UncertainTeachers(attached=attached),
        "instance": UncertainTeachers(each=True, attached=attached),
        "objective": UncertainObjectives(reverse=True, attached=attached),
    }[rule]
    one = two()[0]
    weight = weighting.weigh(answers(logits, {one.name: loss}, make_batch), [one], {})[one.name]
    u = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1) / math.log(3)
    w = u.mean().expand(5) if rule == "soft" else u
    (actual,) = torch.autograd.grad((weight * loss).sum(), logits, retain_graph=True)
    (detached,) = torch.autograd.grad((w.detach() * loss).sum(), logits, retain_graph=True)
    (whole,) = torch.autograd.grad((w * loss).sum(), logits)
    assert torch.allclose(actual, whole if attached else detached, atol=1e-10)
    assert not torch.allclose(whole, detached, atol=1e-3)


@pytest.mark.parametrize("name", ["dynamickd-teacher", "dynamickd-objective"])
def test_attached_is_another_step_of_the_same_loss(batch: Batch, name: str) -> None:
    options: dict[str, Any] = {"adoption": "instance"} if name == "dynamickd-teacher" else {}
    systems = [System.of(name, attached=attached, **options) for attached in (False, True)]
    reports = [one.distiller.step([batch], one.made.stages[0].selection) for one in systems]
    assert reports[0].loss.item() == pytest.approx(reports[1].loss.item(), rel=1e-6)
    assert reports[0].grad_norm.item() != pytest.approx(reports[1].grad_norm.item(), rel=1e-4)


EVERY = [
    ("dynamickd-data", {"keep": 0.1}),
    ("dynamickd-data", {"keep": 0.1, "train_on": "kept", "score": "entropy"}),
    ("dynamickd-data", {"score": "random", "loss": "kl"}),
    *(("dynamickd-teacher", {"adoption": one}) for one in ADOPTIONS),
    ("dynamickd-teacher", {"adoption": "instance", "attached": True}),
    ("dynamickd-objective", {}),
    ("dynamickd-objective", {"attached": True, "reverse": True, "loss": "kl"}),
]


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_a_batch_of_one_of_four_and_a_saturated_student_are_no_trouble(
    make_batch: Callable[..., Batch], name: str, options: dict[str, Any]
) -> None:
    system = System.of(name, **options)
    (stage,) = system.made.stages
    for lengths in ((5,), (4, 6, 3, 5), (2, 2)):
        report = system.distiller.step([make_batch(lengths, classes=CLASSES)], stage.selection)
        assert torch.isfinite(torch.stack([report.loss, report.grad_norm])).all(), lengths
    with torch.no_grad():
        system.distiller.student.model.classifier.weight.mul_(1e4)
    report = system.distiller.step([make_batch((4, 6, 3, 5), classes=CLASSES)], stage.selection)
    assert torch.isfinite(torch.stack([report.loss, report.grad_norm])).all()
    assert report.uncertainty.item() < 1e-3
    assert all(torch.isfinite(p).all() for p in system.distiller.student.parameters)


def test_of_one_example_the_small_teacher_is_not_asked(make_batch: Callable[..., Batch]) -> None:
    system = System.of("dynamickd-teacher")
    batch = make_batch((5,), classes=CLASSES)
    student, large = plain_pair(batch)
    expected = labels_of(student, batch) + distance(student, large, "mse")
    assert system.loss(batch) == pytest.approx(expected.item(), rel=1e-5)
    assert [one.asked for one in system.teachers] == [[], [[0]]]
    chosen = list(system.distiller.knowledge.values())
    parts = (
        3 * system.distiller.meter(OutputRequest(logits=True)).forward(1, 5),
        system.teachers[1].flops(OutputRequest(logits=True), 1, 5),
    )
    assert system.distiller.flops(chosen, 1, 5) == sum(parts)
    assert system.distiller.costs.flops["student"] + system.distiller.costs.flops["teacher"] == sum(parts)


def test_a_tenth_of_four_examples_is_one(make_batch: Callable[..., Batch]) -> None:
    for train_on in ("all", "kept"):
        system = System.of("dynamickd-data", keep=0.1, train_on=train_on)
        system.loss(make_batch((4, 6, 3, 5), classes=CLASSES))
        assert [len(ids) for ids in system.teachers[0].asked] == [1]


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_teachers_answer_without_dropout_and_stay_as_they_are(
    make_batch: Callable[..., Batch], name: str, options: dict[str, Any]
) -> None:
    system, batch = System.of(name, **options), make_batch(LENGTHS, classes=CLASSES)
    answer = [one.teacher(batch, OutputRequest(logits=True), CostTracker()).logits for one in system.teachers]
    own = {id(p) for p in system.distiller.student.parameters}
    for _ in range(2):
        system.loss(batch)
    for one, before in zip(system.teachers, answer, strict=True):
        again = one.teacher(batch, OutputRequest(logits=True), CostTracker()).logits
        assert before is not None
        assert again is not None
        assert torch.equal(before, again)
        assert not own & {id(p) for p in one.teacher.model.parameters()}
    assert not any("teacher" in key for key in system.distiller.student.model.state_dict())


def shape(layers: int, classes: int = 2) -> ModelDims:
    return ModelDims(layers, 16, 2, classes, 50)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dynamickd-data", {}, "no uncertainty over classes: choose examples by their loss or at random"),
        ("dynamickd-data", {"score": "entropy-r", "train_on": "kept"}, "--score loss, --score random"),
        *(
            ("dynamickd-teacher", {"adoption": one}, r"average the teachers \(--options adoption=average\)")
            for one in ADOPTIONS[:3]
        ),
        ("dynamickd-objective", {}, r"keep the weights static \(--options weights=static\)"),
    ],
)
def test_a_regression_is_refused_and_told_what_works(name: str, options: dict[str, Any], words: str) -> None:
    teachers = [shape(4, 1)] * METHODS[name].teachers[0]
    with pytest.raises(InputError, match=words):
        preset(name, shape(2, 1), teachers, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dynamickd-data", {"score": "loss"}),
        ("dynamickd-data", {"score": "random", "loss": "kl", "train_on": "kept"}),
        ("dynamickd-teacher", {"adoption": "average"}),
        ("dynamickd-objective", {"weights": "static"}),
    ],
)
def test_what_a_regression_is_told_works(make_batch: Callable[..., Batch], name: str, options: dict[str, Any]) -> None:
    system = System.of(name, classes=1, **options)
    assert math.isfinite(system.loss(make_batch(LENGTHS, classes=1)))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dynamickd-data", {"keep": 0.0}, "a share of 0.0 of the examples cannot be kept"),
        ("dynamickd-data", {"score": "kl"}, "unknown score 'kl'"),
        ("dynamickd-data", {"train_on": "keep"}, r"unknown train_on 'keep': did you mean 'kept'\?"),
        ("dynamickd-data", {"loss": "mae"}, "unknown loss 'mae'"),
        ("dynamickd-data", {"loss": "kl", "tau": 0.0}, "temperature must be above 0"),
        ("dynamickd-teacher", {"adoption": "sofd"}, r"unknown adoption 'sofd': did you mean 'soft'\?"),
        ("dynamickd-teacher", {"attached": True}, "no gradient can pass .* adoption=hard: leave attached away"),
        ("dynamickd-objective", {"weights": "fixed"}, "unknown weights 'fixed'"),
        ("dynamickd-objective", {"weights": "static", "reverse": True}, "static weights .*: leave reverse away"),
        ("dynamickd-objective", {"weights": "static", "attached": True}, "static weights .*: leave attached away"),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        preset(name, shape(2), [shape(4)] * METHODS[name].teachers[0], **options)


def test_the_number_of_teachers_is_checked() -> None:
    with pytest.raises(InputError, match="'dynamickd-teacher' takes 2 teachers, and 1 was named"):
        preset("dynamickd-teacher", shape(2), [shape(4)])
    with pytest.raises(InputError, match="'dynamickd-objective' takes 1 teacher, and 2 were named"):
        preset("dynamickd-objective", shape(2), [shape(2), shape(4)])


@pytest.mark.parametrize("names", ["dynamickd-data,dynamickd-teacher", "dynamickd-teacher,dynamickd-data"])
@pytest.mark.parametrize("adoption", ["hard", "average"])
def test_data_and_teachers_at_once(batch: Batch, names: str, adoption: str) -> None:
    """In either order: of the picked examples each teacher is asked about its own."""
    system = System.of(names, depths=(2, 4), keep=0.6, score="entropy-r", adoption=adoption)
    student, large = plain_pair(batch)
    small, order = Plain.of(model(2, 2), batch), (-student.u).argsort().tolist()
    picked = set(order[-3:])
    mine, theirs = sorted(picked & set(order[:2])), sorted(picked & set(order[2:]))
    if adoption == "average":
        mine = theirs = sorted(picked)
    share = 0.5 if adoption == "average" else 1.0
    expected = labels_of(student, batch).mean() + share * distance(student, large, "mse")[theirs].mean()
    if mine:
        expected = expected + share * distance(student, small, "mse")[mine].mean()
    assert system.loss(batch) == pytest.approx(expected.item(), rel=1e-5)
    assert [one.asked for one in system.teachers] == [[mine] if mine else [], [theirs]]
    assert isinstance(system.made.weighting, Together)


def test_what_gives_way_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    both = preset("dynamickd-data,dynamickd-objective", shape(2), [shape(4)], keep=0.25)
    assert [type(one) for one in both.knowledge] == [LogitsMse, Hidden]
    assert both.weighting == Together(PickedRows(TopFraction("margin", 0.25)), UncertainObjectives())
    assert not both.gives_way
    for name in ("dynamickd-data", "dynamickd-teacher"):
        assert preset(name, shape(2), [shape(4)] * METHODS[name].teachers[0]).gives_way
    with pytest.raises(InputError, match="both say which losses there are"):
        preset("dynamickd-objective,tinybert", shape(2), [shape(4)])
    monkeypatch.setitem(PUBLISHED, "again", replace(PUBLISHED["dynamickd-data"], name="again"))
    monkeypatch.setattr("ackd.presets.METHODS", {**METHODS, "again": replace(METHODS["dynamickd-data"], name="again")})
    with pytest.raises(InputError, match="two of the presets thin the batches"):
        preset("dynamickd-data,again", shape(2), [shape(4)], train_on="kept")
    (one,) = preset("dynamickd-data", shape(2), [shape(4)], loss="kl", tau=3.0).knowledge
    assert isinstance(one, Logits)
    assert one.temperature == 3.0
    names = [one.name for one in preset("dynamickd-teacher", shape(2), [shape(2), shape(4)], loss="kl").knowledge]
    assert names == ["logits@1", "logits@2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small teacher and a large one."""
    tokenizer, found = tasks.embedded_tokenizer("polarity"), []
    for depth in (2, 4):
        folder = tmp_path_factory.mktemp("teacher")
        config = models.small_config(len(tokenizer), 2, layers=depth, width=16, heads=2, dropout=0.1)
        with torch.random.fork_rng():
            torch.manual_seed(depth)
            models.save_model(folder, models.from_config(config)(), tokenizer)
        found.append(str(folder))
    return found


def ready(teacher: str | list[str], names: str, **changes: Any) -> Distillation:
    given: dict[str, Any] = {"student_layers": 2, "max_examples": 600, "steps": 8, "batch_size": 20, "lr": 1e-3}
    return prepare(task="polarity", teacher=teacher, preset=names, **{**given, **changes})


def test_relations_of_a_tenth_of_the_examples_in_two_stages(folders: list[str]) -> None:
    training = ready(folders[1], "dynamickd-data,minilmv2", options={"keep": 0.1})
    reports = distill(training, training.staged, interval=1)
    assert [sorted(report.losses) for report in reports] == [["qkv"]] * 4 + [[]] * 4
    assert all(report.finite for report in reports)
    assert training.costs.teacher_queries == 4 * 2
    assert training.counts.price < training.counts.price_of_all


def test_a_revised_teacher_can_be_weighed(folders: list[str]) -> None:
    training = ready(folders[1], "label-revision,dynamickd-objective", steps=3)
    reports = distill(training, training.staged, interval=1)
    assert [sorted(report.losses) for report in reports] == [["hidden", "logits-mse"]] * 3
    assert all(report.finite for report in reports)
    assert isinstance(training.distiller.weighting, UncertainObjectives)
    assert type(training.teachers[0]) is not ModelTeacher


@pytest.mark.parametrize(
    ("names", "count", "options"),
    [
        ("dynamickd-data,dynamickd-teacher", 2, {"score": "random", "adoption": "instance"}),
        ("dynamickd-objective", 1, {}),
        ("dynamickd-data,dynamickd-objective", 1, {"keep": 0.3, "train_on": "kept"}),
    ],
)
def test_a_training_goes_on_where_it_was(
    folders: list[str], tmp_path: Path, names: str, count: int, options: dict[str, Any]
) -> None:
    trainings = [ready(folders[:count], names, options=options, accumulate=2, batch_size=6) for _ in range(3)]
    straight, broken, resumed = trainings
    for one in (straight, broken):
        one.reset(1)
    straight.advance(straight.staged(0), 6)
    broken.advance(broken.staged(0), 3)
    torch.save(broken.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed.advance(resumed.staged(3), 3)
    assert torch.equal(weights(straight), weights(resumed))
    assert straight.costs.accounts == resumed.costs.accounts


def test_types_of_ones_own_take_the_place_of_losses_that_give_way(folders: list[str]) -> None:
    training = ready(folders, "dynamickd-teacher", types=["logits", "hidden"], batch_size=8)
    assert set(training.distiller.knowledge) == {"logits@1", "hidden@1", "logits@2", "hidden@2"}
    training.reset(0)
    report = training.advance(Selection.of(*training.distiller.knowledge), 4)
    assert report.finite
    assert training.costs.teacher_queries == 4 * 8  # each example is asked of one teacher alone
