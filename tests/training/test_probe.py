"""What is known of a setting before the first step, and whether gradients agree on the way."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ackd import knowledge, models, tasks
from ackd.cohort.cohort import Cohort
from ackd.costs import CostTracker
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.mdp.episode import LEAD, Facts
from ackd.models import Meter, Model
from ackd.numerics.streams import RngStreams
from ackd.teachers import LabelTeacher
from ackd.training import probe, teacher_warnings
from ackd.training.distillation import Distillation
from ackd.training.gradients import Compass
from ackd.training.replay_log import ENTRIES, ReplayLog
from ackd.types import LABELS, Batch, ModelDims, OutputRequest, Outputs, Selection
from tests.learned import weights

ALL = Selection.of(*knowledge.DEFAULT)


class Knowing:
    """A teacher that knows the label of an example with some probability, drawn once for each; else it says another."""

    fingerprint = "knowing"

    def __init__(self, share: float, classes: int = 2, *, sure: float = 3.0) -> None:
        self.share, self.classes, self.sure = share, classes, sure

    @property
    def shape(self) -> ModelDims:
        return ModelDims(4, 16, 2, self.classes, 50)

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        costs.add_flops("teacher", 7.0 * len(batch.ids))
        drawn = torch.tensor([np.random.default_rng(int(one)).random() for one in batch.ids])
        said = torch.where(drawn < self.share, batch.labels, (batch.labels + 1) % self.classes)
        return Outputs(logits=self.sure * nn.functional.one_hot(said, self.classes).float())

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return 7.0 * size


def own_words(task: tasks.Task, *, regression: bool = False, level: float = 0.5) -> tasks.Task:
    """The task, but its labels count words that a linear function of the embeddings can see."""

    def seen(split: tasks.Split) -> tasks.Split:
        parts = np.split(split.inputs["input_ids"], split.offsets[1:-1])
        part = np.array([float((tokens % 2 == 0).mean()) for tokens in parts])
        other = copy.copy(split)
        other.labels = part.astype(np.float32) if regression else (part > level).astype(np.int64)
        return other

    spec = replace(task.spec, classes=(), metrics=("pearson",)) if regression else task.spec
    return tasks.Task(spec, seen(task.train), seen(task.reward), {name: seen(one) for name, one in task.dev.items()})


def few(task: tasks.Task) -> tasks.Task:
    """The task with fewer examples to learn from than the probe's sample has."""
    chosen = np.linspace(0, len(task.train) - 1, 344).astype(np.int64)
    return replace(task, train=task.train.select(chosen))


def make(task: tasks.Task | None = None, teacher: Any = None, **changes: Any) -> Distillation:
    """The tiny pair: 344 examples to learn from, 256 for the reward, a student of two layers of width 16."""
    parts = tiny().distillation
    return Distillation(
        few(task or parts.task),
        parts.teachers if teacher is None else [teacher],
        parts._make_student,
        parts._make_knowledge if teacher is None else tuple,
        **{"steps": 12, "batch_size": 8, "lr": 1e-3, **changes},
    )


def states_of(training: Distillation, split: tasks.Split) -> np.ndarray[Any, Any]:
    """Mean and first state of the last layer, one example at a time, so without padding."""
    with RngStreams(0).initialising():
        model = training._make_student().eval()
    rows = []
    for place in range(len(split)):
        with torch.no_grad():
            inputs = dict(split.batch([place]).inputs)
            states = model.base_model(**inputs).last_hidden_state[0]
        rows.append(torch.cat([states.mean(0), states[0]]).double().numpy())
    return np.array(rows)


def left_out(states: Any, labels: Any) -> np.ndarray[Any, Any]:
    """Of each example, what ridge regression of all others says, with the strength that is right most of all."""
    x, y = StandardScaler().fit_transform(states), labels.astype(np.float64)

    def by(strength: float) -> np.ndarray[Any, Any]:
        said = Ridge(alpha=strength).fit(x, y).predict(x)
        hat = x @ np.linalg.inv(x.T @ x + strength * np.eye(x.shape[1])) @ x.T + 1 / len(x)
        return np.asarray(y - (y - said) / (1 - hat.diagonal()))

    return min(map(by, probe.STRENGTHS), key=lambda said: float(np.square(y - said).mean()))


def test_the_probe_is_what_scikit_learn_says_of_the_same_states() -> None:
    training = make(own_words(tiny().distillation.task))
    task, facts = training.task, training.facts()
    assert len(task.train) == 344 < probe.SAMPLE
    states = np.concatenate([states_of(training, part) for part in (task.train, task.reward)])
    labels = np.concatenate([task.train.labels, task.reward.labels])
    answers = left_out(states, labels)
    assert facts is not None
    assert facts.probe == pytest.approx(((answers > 0.5) == labels)[344:].mean(), abs=1 / 256)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(states[:344], labels[:344])
    assert facts.probe == pytest.approx(logistic.score(states[344:], labels[344:]), abs=0.06)
    assert 0.7 < facts.probe < 1.0  # so that it says something that they agree


@pytest.mark.parametrize(("examples", "features"), [(40, 6), (30, 50)])
def test_of_three_classes_too(examples: int, features: int) -> None:
    rng = np.random.default_rng(0)
    states, labels = (
        rng.normal(size=(examples, features)) * rng.uniform(0.1, 9, features),
        rng.integers(3, size=examples),
    )
    states[:, 0] += labels
    states[:, 1] = 4.0  # says nothing, and has no spread
    answers = probe.probed(states, labels, 3)
    errors = {}
    for strength in probe.STRENGTHS:
        x = StandardScaler().fit_transform(states)
        one = [Ridge(alpha=strength).fit(np.delete(x, i, 0), np.delete(np.eye(3)[labels], i, 0)) for i in range(len(x))]
        said = np.array([ridge.predict(x[i : i + 1])[0] for i, ridge in enumerate(one)])
        errors[strength] = (np.square(said - np.eye(3)[labels]).mean(), said)
    np.testing.assert_allclose(answers, min(errors.values(), key=lambda pair: pair[0])[1], atol=1e-8)


def test_a_lead_is_that_of_a_sign_test() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    good, poor = (np.eye(3)[np.where(rng.random(200) < share, labels, (labels + 1) % 3)] for share in (0.8, 0.6))
    won = int(((good.argmax(1) == labels) & (poor.argmax(1) != labels)).sum())
    lost = int(((good.argmax(1) != labels) & (poor.argmax(1) == labels)).sum())
    assert probe.lead(good, poor, labels) == pytest.approx((won - lost) / np.sqrt(won + lost))
    assert probe.lead(poor, good, labels) == -probe.lead(good, poor, labels)
    assert probe.lead(good, good, labels) == probe.lead(good, np.full((200, 3), np.nan), labels) == 0


def test_a_lead_in_regression_is_of_the_line_through_the_answers() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=300)
    near, far = labels + 0.1 * rng.normal(size=300), labels + rng.normal(size=300)
    lines = [np.polynomial.Polynomial.fit(said, labels, 1)(said) for said in (near, far)]
    gains = np.square(labels - lines[1]) - np.square(labels - lines[0])
    expected = gains.sum() / np.sqrt(np.square(gains).sum())
    assert probe.lead(near[:, None], far[:, None], labels) == pytest.approx(expected)
    assert probe.lead(9 + 5 * near[:, None], far[:, None], labels) == pytest.approx(
        expected
    )  # another scale is no error
    assert probe.lead(-near[:, None], far[:, None], labels) < 0  # the wrong way round knows nothing


class Foreign(Knowing):
    """A teacher whose last states hold the label, while its answers are those of another task."""

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        drawn = np.array([np.random.default_rng(int(one)).normal(size=16) for one in batch.ids])
        drawn[:, 3] += 3.0 * batch.labels.numpy()
        states = torch.from_numpy(drawn).float()[:, None].expand(*batch.mask.shape, 16)
        logits = super().__call__(batch, needs, costs).logits
        return Outputs(logits=logits, hidden=dict.fromkeys(needs.hidden, states))


def test_a_teacher_that_says_less_than_its_states_know_is_overtaken(caplog: pytest.LogCaptureFixture) -> None:
    facts = make(teacher=Foreign(0.6)).facts()
    assert facts is not None
    assert facts.teacher_lead > LEAD > facts.student_lead
    assert facts.overtaken > 1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ackd"):
        sound = make(teacher=Foreign(1.0)).facts()
    assert sound is not None
    assert sound.teacher_lead < 0
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "ackd"):
        make(teacher=Foreign(0.6)).facts()
    (record,) = caplog.records
    assert "a linear probe on its own last states predicts held-out labels better" in record.getMessage()


def test_a_teacher_without_states_has_no_lead_over_itself() -> None:
    class Silent(Foreign):
        def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
            if needs.hidden:
                raise InputError("this teacher has no hidden states")
            return super().__call__(batch, needs, costs)

    one, other = make(teacher=Silent(0.6)).facts(), make(teacher=Knowing(0.6)).facts()
    assert one == other
    assert one is not None
    assert one.teacher_lead == 0.0


def test_the_rest_of_the_facts_is_counted_by_hand() -> None:
    training = make(teacher=Knowing(0.8), steps=10, batch_size=16, accumulate=2)
    facts = training.facts()
    assert facts is not None
    drawn = [np.random.default_rng(int(one)).random() for one in training.task.reward.ids]
    assert facts.agreement == pytest.approx(np.mean([one < 0.8 for one in drawn]))
    assert facts.confidence == pytest.approx(np.exp(3) / (np.exp(3) + 1))
    assert facts.chance == 0.5
    assert facts.epochs == pytest.approx(10 * 32 / 344)
    parameters = sum(one.numel() for one in training.student.model.parameters())
    assert facts.examples_per_parameter == pytest.approx(344 / parameters)
    assert facts.student_lead < 0 == facts.teacher_lead == facts.overtaken  # the teacher shows no states


def test_of_a_regression_they_are_correlations() -> None:
    parts = tiny(student_width=8).distillation
    task = few(own_words(parts.task, regression=True))

    class Shifted(Knowing):
        def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
            drawn = torch.tensor([np.random.default_rng(int(one)).normal() for one in batch.ids])
            return Outputs(logits=(5 - self.share * batch.labels + 0.05 * drawn)[:, None])

    config = models.small_config(parts.teachers[0].shape.vocabulary, 1, layers=2, width=8, heads=2)
    training = Distillation(task, [Shifted(-1.0, 1)], models.from_config(config), steps=12)
    facts = training.facts()
    assert facts is not None
    labels = task.reward.labels
    noise = np.array([np.random.default_rng(int(one)).normal() for one in task.reward.ids])
    assert facts.agreement == pytest.approx(np.corrcoef(labels + 0.05 * noise, labels)[0, 1], abs=1e-4)
    assert (facts.chance, facts.confidence) == (0.0, 0.0)
    states = np.concatenate([states_of(training, part) for part in (task.train, task.reward)])
    answers = left_out(states, np.concatenate([task.train.labels, labels]))[344:]
    assert facts.probe == pytest.approx(np.corrcoef(answers, labels)[0, 1], abs=1e-4)
    assert facts.student_lead < 0 == facts.overtaken
    opposite = Distillation(task, [Shifted(1.0, 1)], models.from_config(config), steps=12).facts()
    assert opposite is not None
    assert opposite.agreement == 0.0
    assert opposite.overtaken > 1


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.62, "can probably learn the labels better"), (1.0, None), (0.5, "seems not to be trained on this task")],
)
def test_a_teacher_that_is_overtaken_or_useless_is_warned_of_once(
    share: float, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    task = own_words(tiny().distillation.task, level=0.35)
    training = make(task, Knowing(share))
    with caplog.at_level(logging.WARNING, "ackd"):
        facts = training.facts()
        training.reset(3)
        assert training.facts() is facts
        training.fork().facts()
    assert facts is not None
    assert (facts.overtaken > 1) == (share < 1)
    if said is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert said in record.getMessage()
        assert f"{facts.agreement:.2f}" in record.getMessage()
        assert "--policy labels" in record.getMessage()


def test_every_seed_and_every_training_of_a_setting_has_the_same_facts() -> None:
    parts = tiny(student_width=8).distillation  # whose weights are drawn

    def training() -> Distillation:
        return Distillation(parts.task, parts.teachers, parts._make_student, parts._make_knowledge, steps=12)

    one, other = training(), training()
    other.reset(5)
    other.advance(ALL, 3)
    assert one.facts() == other.facts()
    cohort = Cohort(training(), 3)
    cohort.reset([4, 5, 6])
    assert cohort.facts() == cohort.distillation.facts() == one.facts()


def test_a_student_learns_the_same_with_and_without_them() -> None:
    def trained(ask: bool) -> torch.Tensor:
        training = make()
        training.reset(3)
        training.advance(ALL, 5)
        if ask:
            training.facts()
        before = torch.random.get_rng_state()
        training.advance(ALL, 7)
        assert torch.equal(torch.random.get_rng_state(), before)
        return weights(training)

    assert torch.equal(trained(True), trained(False))


@pytest.mark.parametrize("teachers", [(), (LabelTeacher(torch.eye(2).log_softmax(-1)),)])
def test_without_a_teacher_nothing_is_known(teachers: tuple[Any, ...]) -> None:
    parts = tiny().distillation
    training = Distillation(parts.task, teachers, parts._make_student, steps=12)
    assert training.facts() is None
    assert training.costs.flops["probe"] == 0


def test_a_damaged_student_or_teacher_is_no_error_here() -> None:
    parts = tiny().distillation

    def broken() -> Model:
        model = parts._make_student()
        with torch.no_grad():
            next(model.base_model.encoder.layer[1].parameters()).fill_(float("nan"))
        return model

    facts = Distillation(parts.task, [Knowing(0.8, sure=float("nan"))], broken, steps=12).facts()
    assert facts is not None
    assert (facts.agreement, facts.probe, facts.confidence, facts.overtaken) == (0.0, 0.0, 0.0, 0.0)


def test_what_they_take_is_on_the_bill_once() -> None:
    training = make()
    task, meter = training.task, training._meter
    training.reset(1)
    training.facts()

    def passes(forward: Callable[[int, int], float], split: tasks.Split) -> float:
        return sum(forward(len(group), int(split.lengths[group].max())) for group in split.by_length(32))

    states = meter(OutputRequest(hidden=frozenset({1}))).forward
    student = passes(states, task.train) + passes(states, task.reward)
    (teacher,) = training.teachers
    asked = passes(lambda size, length: teacher.flops(OutputRequest(logits=True), size, length), task.reward)
    shown = OutputRequest(logits=True, hidden=frozenset({teacher.shape.layers - 2, teacher.shape.layers - 1}))
    for part in (task.train, task.reward):
        student += passes(lambda size, length: teacher.flops(shown, size, length), part)
    fit = sum(6 * 600 * width * width + 20 * width**3 for width in (2 * 16, 2 * 2 * teacher.shape.width))
    assert training.costs.flops["probe"] == pytest.approx(student + asked + fit, rel=1e-12)
    assert training.costs.flops["reward"] == training.costs.flops["student"] == 0
    assert training.costs.seconds["probe"] > 0
    training.measure_teacher(task.reward, "reward")  # it has been asked
    assert training.costs.flops["reward"] == 0
    training.reset(2)
    training.facts()
    assert training.costs.flops["probe"] == 0
    other = make()
    other.measure_teacher(task.reward, "reward")
    other.facts()
    assert other.costs.flops["reward"] == pytest.approx(asked, rel=1e-12)
    assert other.costs.flops["probe"] == pytest.approx(student + fit, rel=1e-12)


def test_a_journal_has_them_and_what_they_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path | None, make: Callable[[], Any] = make, seeds: Any = (1, 2)) -> list[Any]:
        training, said = make(), list[Any]()
        if folder is not None:
            training.replay(ReplayLog(folder, seconds=0))
        for seed in seeds:
            training.reset(seed)
            said += [training.facts(), training.costs.flops["probe"]]
        return said

    def cohort() -> Cohort:
        return Cohort(make(), 2)

    for name, making, seeds in (("one", make, (1, 2)), ("two", cohort, ([1, 2], [3, 4]))):
        expected = run(None, making, seeds)
        assert expected[1] > 0 == expected[3]
        assert run(tmp_path / name, making, seeds) == expected
        lines = (tmp_path / name / ENTRIES).read_text().splitlines(keepends=True)
        assert len(lines) == 4
        assert run(tmp_path / name, making, seeds) == expected  # the last episode begins again
        with monkeypatch.context() as patch:
            patch.setattr(Distillation, "probe", None)  # nobody asks what was answered, even for another student
            assert run(tmp_path / name, making, seeds) == expected


def test_an_environment_shows_them_in_every_episode() -> None:
    env = tiny(reward_every=None)
    facts = env.distillation.facts()
    assert isinstance(facts, Facts)
    for seed in (1, 2):
        env.reset(seed=seed)
        env.step(np.ones(8, dtype=np.int8))
        assert env.episode is not None
        assert env.episode.facts == facts
        assert env.episode.phases
    cohort = CohortEnv([env], 2)
    cohort.reset()
    assert [one.episode is not None and one.episode.facts == facts for one in cohort.trajectories] == [True, True]


def some(cosines: bool = True, **changes: Any) -> Distillation:
    types = ("logits", "hidden", "attention", "embeddings", "hidden-cls")
    parts = tiny(student_width=8, knowledge=types).distillation
    return Distillation(
        parts.task, parts.teachers, parts._make_student, parts._make_knowledge,
        **{"steps": 12, "batch_size": 8, "lr": 1e-3, "cosines": cosines, **changes},
    )  # fmt: skip


def test_cosines_are_those_of_gradients_taken_one_by_one() -> None:
    training = some(accumulate=2)
    training.reset(3)
    for module in training.student.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so that the same losses can be computed again
    start, order = copy.deepcopy(training.student.model), copy.deepcopy(training.trainer.order)
    projections = copy.deepcopy(training.distiller.knowledge)
    report = training.advance(Selection.of(*projections), 3)
    batch = training.task.train.batch(order.next())
    last = [*start.bert.encoder.layer[1].parameters()]

    def gradient(name: str) -> torch.Tensor:
        start.zero_grad()
        needs = projections[name].student_needs if name != LABELS else OutputRequest(logits=True)
        outputs = models.run(start.train(), batch, needs | OutputRequest(logits=True))
        assert outputs.logits is not None
        if name == LABELS:
            nn.functional.cross_entropy(outputs.logits, batch.labels).backward()
        else:
            one = projections[name]
            one(outputs, training.teachers[0](batch, one.teacher_needs, CostTracker()), batch).mean().backward()
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in last])

    own = gradient(LABELS)
    assert set(report.cosines) == {"logits", "hidden", "attention", "hidden-cls"}  # the embeddings reach no layer
    assert set(report.norms) == {LABELS, *report.cosines}
    assert report.norms[LABELS] == pytest.approx(float(own.norm()), rel=1e-4)
    for name, cosine in report.cosines.items():
        theirs = gradient(name)
        assert report.norms[name] == pytest.approx(float(theirs.norm()), rel=1e-4)
        assert cosine == pytest.approx(float(own @ theirs / own.norm() / theirs.norm()), abs=1e-4)
    assert abs(report.cosines["logits"]) > 0.1 > abs(report.cosines["attention"]) >= 0
    assert report.finite


def test_a_type_is_compared_on_the_last_layer_that_it_reaches() -> None:
    parts = some()
    model, one = parts.student.model, parts.distiller.knowledge["hidden"]
    compass = Compass(model, Meter(model))
    low = copy.copy(one)
    low.student_needs = OutputRequest(hidden=frozenset({0}))
    assert compass.reached([one, low]) == {"hidden": 0}
    batch = parts.task.train.batch(range(8))
    outputs = models.run(model.eval(), batch, OutputRequest(logits=True, hidden=frozenset({0})))
    assert outputs.logits is not None
    labels = nn.functional.cross_entropy(outputs.logits, batch.labels)
    pulls = compass([low], {"hidden": outputs.hidden[0].square().mean(), LABELS: labels})
    layer = [*model.bert.encoder.layer[0].parameters()]
    own = torch.cat([g.flatten() for g in torch.autograd.grad(labels, layer, retain_graph=True)])
    theirs = torch.cat([g.flatten() for g in torch.autograd.grad(outputs.hidden[0].square().mean(), layer)])
    assert float(pulls.cosines["hidden"]) == pytest.approx(float(own @ theirs / own.norm() / theirs.norm()), abs=1e-5)


def test_comparing_changes_nothing_but_the_bill(tmp_path: Path) -> None:
    def run(folder: Path | None = None, **changes: Any) -> tuple[Distillation, list[Any]]:
        training = some(**changes)
        if folder is not None:
            training.replay(ReplayLog(folder, seconds=0))
        training.reset(3)
        return training, [training.advance(ALL, 5), training.advance(Selection(), 5)]

    (one, reports), (other, plain) = run(), run(cosines=False)
    assert torch.equal(weights(one), weights(other))
    assert [replace(report, cosines={}, norms={}) for report in reports] == plain
    assert plain[0].cosines == plain[0].norms == reports[1].cosines == {}
    assert set(reports[1].norms) == {LABELS}
    assert one.costs.flops["probe"] > 0 == other.costs.flops["probe"]
    assert {**one.costs.flops, "probe": 0.0} == other.costs.flops
    assert run(tmp_path)[1] == run(tmp_path)[1] == reports  # from a journal, too
    assert reports[0].of(reports[0].numbers) == reports[0]


def test_reports_of_an_older_journal_have_no_cosines(tmp_path: Path) -> None:
    def run() -> Any:
        training = some(cosines=False)
        training.replay(ReplayLog(tmp_path, seconds=0))
        training.reset(3)
        return training.advance(ALL, 5)

    report = run()
    entries = tmp_path / ENTRIES
    older = entries.read_text().replace(', "cosines": {}, "norms": {}', "")
    assert "cosines" not in older
    entries.write_text(older)
    assert run() == report


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="leave --gradient-cosines or --students away"):
        Cohort(some(), 2)
    with pytest.raises(InputError, match="leave one of the two away"):
        some(compiled=True)


class Reading(Knowing):
    """A teacher that knows, but has its classes in another order."""

    def __init__(self, share: float, order: tuple[int, ...]) -> None:
        super().__init__(share, len(order))
        self.order = order

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        logits = super().__call__(batch, needs, costs).logits
        assert logits is not None
        return Outputs(logits=logits[:, list(self.order)])


class Constant(Knowing):
    """A teacher that always says the same."""

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        said = torch.full((len(batch.ids),), int(self.share))
        return Outputs(logits=nn.functional.one_hot(said, self.classes).float())


def in_classes(task: tasks.Task, shares: tuple[float, ...]) -> tasks.Task:
    """The task with classes drawn anew, each with its share."""

    def drawn(split: tasks.Split) -> tasks.Split:
        other = copy.copy(split)
        other.labels = np.random.default_rng(0).choice(len(shares), len(split), p=shares)
        return other

    spec = replace(task.spec, classes=tuple("abcdef"[: len(shares)]))
    return tasks.Task(spec, drawn(task.train), drawn(task.reward), {name: drawn(one) for name, one in task.dev.items()})


def warned(task: tasks.Task, teacher: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ackd"):
        make(task, teacher).facts()
    return [record.getMessage() for record in caplog.records]


def test_a_teacher_with_its_classes_in_another_order_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    task = tiny().distillation.task
    two, three = in_classes(task, (0.5, 0.5)), in_classes(task, (0.3, 0.3, 0.4))
    (said,) = warned(two, Reading(0.9, (1, 0)), caplog)
    assert "classes in another order" in said
    assert "read as b, a;" in said
    assert said.endswith("in the order a, b")
    (said,) = warned(three, Reading(0.9, (1, 2, 0)), caplog)  # its class 0 has what it knows of class 1
    assert "read as b, c, a;" in said
    for fine, known in ((two, Reading(0.9, (0, 1))), (three, Reading(0.7, (0, 1, 2)))):
        assert warned(fine, known, caplog) == []


def test_a_teacher_below_the_larger_class_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    task = in_classes(tiny().distillation.task, (0.8, 0.2))
    (said,) = warned(task, Knowing(0.56), caplog)
    assert f"always predicting 'a' with {(task.reward.labels == 0).mean():.2f}" in said
    assert warned(task, Knowing(0.95), caplog) == []
    (said,) = warned(
        task, Constant(1), caplog
    )  # it says b, which is no other order: it would be right as a constant is
    assert "another order" not in said


def test_a_regression_has_no_order(caplog: pytest.LogCaptureFixture) -> None:
    task = own_words(tiny().distillation.task, regression=True)
    facts = Facts(0.9, 0.0, 0.1, 0.0, 1.0, 1.0)
    with caplog.at_level(logging.WARNING, "ackd"):
        teacher_warnings.warn(
            facts, -task.reward.labels[:, None].astype(np.float64), task.reward.labels, task.spec.classes
        )
    assert caplog.records == []


@pytest.mark.parametrize("classes", [2, 3, 10, 60])
def test_no_order_is_read_into_answers_that_know_nothing(classes: int) -> None:
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        answers, labels = rng.normal(size=(256, classes)), rng.integers(classes, size=256)
        found += teacher_warnings.better_order(answers, labels) is not None
    assert found <= 2  # of 200, at three standard errors


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (0, 2, 1), tuple(np.roll(range(10), 3))])
def test_the_order_that_is_found_is_the_one_that_was_taken(order: tuple[int, ...]) -> None:
    rng, classes = np.random.default_rng(0), len(order)
    labels = rng.integers(classes, size=256)
    said = np.where(rng.random(256) < 0.8, labels, rng.integers(classes, size=256))
    answers = np.eye(classes)[:, list(order)][said]  # place j of an answer has what is known of class order[j]
    found = teacher_warnings.better_order(answers, labels)
    assert found is not None
    assert found.tolist() == list(order)
    assert teacher_warnings.better_order(np.eye(classes)[said], labels) is None
    assert teacher_warnings.better_order(answers * np.nan, labels) is None
