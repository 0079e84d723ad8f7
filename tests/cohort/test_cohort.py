"""A cohort is as many single trainings on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AlbertConfig, DebertaV2Config, DistilBertConfig, ElectraConfig, ModernBertConfig, RobertaConfig

from ackd import knowledge, models
from ackd.cohort.cohort import Cohort
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.models import StudentFactory
from ackd.models.lookup import look_up
from ackd.numerics.streams import RngStreams
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation
from ackd.training.recipe import Recipe
from ackd.training.replay_log import ReplayLog
from ackd.training.sampler import LengthGroupedSampler
from ackd.training.student import Student
from ackd.types import Batch, Knowledge, OutputRequest, Outputs, Selection, StepMetrics, Teacher
from tests.learned import weights

VOCABULARY = tiny().distillation.teachers[0].shape.vocabulary
SIZES: dict[str, int] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
SEEDS = (5, 3, 8)
# Of three students, in four phases: everything, labels only, parts of it with weights, no labels.
PHASES = (
    (Selection.of("logits", "hidden", "attention"), Selection(), Selection({"hidden": 0.3}, labels=0.5)),
    (Selection.of("attention"), Selection({"logits": 2.0, "hidden": 1.0}), Selection({"attention": 1.0}, labels=0)),
    (Selection(), Selection(), Selection()),
    (Selection.of("hidden"), Selection.of("attention", "logits"), Selection({"hidden": 0.0, "logits": 1.0})),
)


@lru_cache
def teachers_of(width: int, double: bool) -> list[ModelTeacher]:
    """The tiny one, and another of three layers; made once, for counting what they cost takes its time."""
    (first,) = tiny().distillation.teachers
    assert isinstance(first, ModelTeacher)
    config = models.small_config(VOCABULARY, 2, layers=3, width=width, heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        both = copy.deepcopy(first.model), models.from_config(config)()
    return [ModelTeacher(model.double() if double else model) for model in both]


def make(
    types: Sequence[str] = knowledge.DEFAULT,
    *,
    dropout: float = 0.0,
    double: bool = False,
    width: int = 8,
    teachers: Sequence[Teacher] | None = None,
    both: bool = False,
    make_student: StudentFactory | None = None,
    **changes: Any,
) -> Distillation:
    """The tiny task and teacher, and a student of two layers; `both` learns from a second teacher too."""
    everyone = teachers_of(width, double)[: 2 if both else 1]
    config = models.small_config(VOCABULARY, 2, layers=2, width=width, heads=2, dropout=dropout)
    student = make_student or models.from_config(config)
    with torch.random.fork_rng(devices=[]):
        shape = models.shape_of(student())

    def losses() -> list[Knowledge]:
        made: list[Knowledge] = []
        for place, teacher in enumerate(everyone):
            suffix = "-2" if place else ""
            made += knowledge.build(types, shape, teacher.shape, teacher_place=place, suffix=suffix)
        return [one.double() for one in made] if double else made

    setting: dict[str, Any] = {"steps": 12, "batch_size": 8, "lr": 1e-3, "scale_steps": 3, **changes}
    factory = (lambda: student().double()) if double else student
    return Distillation(tiny().distillation.task, teachers or everyone, factory, losses, **setting)


def singles(distillation: Distillation, seeds: Sequence[int]) -> list[Distillation]:
    """Single trainings from these seeds, on the batches of the first."""
    found = []
    for seed in seeds:
        one = distillation.fork()
        one.reset(seed)
        one.trainer.order = LengthGroupedSampler(one.task.train.lengths, one.batch_size, RngStreams(seeds[0]).order)
        found.append(one)
    return found


def figures(report: StepMetrics[float]) -> list[float]:
    return [report.loss, report.labels, report.grad_norm, report.uncertainty, report.accuracy, *report.losses.values()]


def compare(
    distillation: Distillation,
    phases: Sequence[Sequence[Selection]],
    steps: int,
    tolerance: float = 1e-7,
    measured: float = 1e-7,
) -> None:
    """Weights within `tolerance` and reports within `measured` of the single trainings', after each phase."""
    seeds = SEEDS[: len(phases[0])]
    cohort, alone = Cohort(distillation, len(seeds)), singles(distillation, seeds)
    cohort.reset(seeds)
    for selections in phases:
        reports = cohort.advance(selections, steps)
        for i, (one, selection) in enumerate(zip(alone, selections, strict=True)):
            expected = one.advance(selection, steps)
            assert reports[i].losses.keys() == expected.losses.keys()
            assert figures(reports[i]) == pytest.approx(figures(expected), rel=measured, abs=measured)
            difference = (weights(cohort.stacked.students[i]) - weights(one.student)).abs().max()
            assert difference < tolerance, (i, selection)
            assert cohort.counts.prices[i] == one.counts.price
            assert cohort.counts.price_of_all == one.counts.price_of_all
            assert cohort.steps_done == one.steps_done


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [1.0, 1e3])
def test_each_student_learns_as_it_would_alone(accumulate: int, clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where what differs is no rounding; with gradients that are clipped and that are not."""
    made = Student.__init__
    recipe = Recipe(gradient_clipping=clip)
    monkeypatch.setattr(Student, "__init__", lambda *args, **options: made(*args, **(options | {"recipe": recipe})))
    compare(make(double=True, accumulate=accumulate), PHASES, 3)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(warmup=0.3, schedule="cosine", weight_decay=0.4, adam_betas=(0.8, 0.95), gradient_clipping=0),
        Recipe(warmup=0, schedule="constant", weight_decay=0, gradient_clipping=0.1),
    ],
)
def test_each_student_learns_by_the_recipe_as_it_would_alone(recipe: Recipe) -> None:
    compare(make(double=True, recipe=recipe), PHASES, 3)


def test_float32_differs_by_its_rounding() -> None:
    """The logit loss subtracts nearly equal numbers here, so what is measured is less exact than what is learnt."""
    compare(make(lr=1e-4), PHASES, 2, tolerance=1e-5, measured=1e-2)


@pytest.mark.parametrize("name", knowledge.NAMES)
def test_every_knowledge_type(name: str) -> None:
    others = [other for other in ("logits", "hidden-cls") if other != name]
    phase = (Selection.of(name), Selection.of(*others), Selection({name: 0.5, others[0]: 1.0}, labels=0))
    compare(make((name, *others), double=True), (phase,), 4)


def test_two_teachers_and_students_as_wide_as_they() -> None:
    """Without projections; the weights of the teachers differ."""
    distillation = make(double=True, both=True, width=16, teacher_weights=(1.0, 0.25))
    everything = Selection.of(*distillation.distiller.knowledge)
    compare(distillation, [(everything, Selection.of("logits-2"), Selection.of("hidden", "attention-2"))], 4)


def test_a_cohort_of_one_is_a_single_student_bit_for_bit() -> None:
    distillation = make(dropout=0.1, accumulate=2)
    cohort = Cohort(distillation, 1)
    cohort.reset([4])
    distillation.reset(4)
    for phase in PHASES:
        (report,) = cohort.advance(phase[:1], 3)
        assert report == distillation.advance(phase[0], 3)
        assert torch.equal(weights(cohort.stacked.students[0]), weights(distillation.student))
        assert cohort.costs.flops == distillation.costs.flops
        assert cohort.costs.bytes == distillation.costs.bytes
        assert cohort.costs.teacher_queries == distillation.costs.teacher_queries
    reward = distillation.task.reward
    assert cohort.evaluate(reward, "reward") == [distillation.evaluate(reward, "reward")]
    assert cohort.measure_teacher(reward, "reward") == distillation.measure_teacher(reward, "reward")


def test_standings_and_models_are_those_of_each_student(tmp_path: Path) -> None:
    distillation = make(dropout=0.1)
    cohort = Cohort(distillation, 3)
    cohort.reset(SEEDS)
    cohort.advance(PHASES[0], 12)
    reward = distillation.task.reward
    eval_results = cohort.evaluate(reward, "reward")
    assert len({eval_result.loss for eval_result in eval_results}) == 3
    assert cohort.costs.reward_passes == 1
    for i, eval_result in enumerate(eval_results):
        cohort.model(i).save_pretrained(tmp_path / str(i))
        saved = models.load_model(tmp_path / str(i))
        distillation.student.model.load_state_dict(saved.state_dict())
        expected = distillation.evaluate(reward, "reward")
        assert eval_result.score == expected.score
        assert eval_result.loss == pytest.approx(expected.loss, rel=1e-5)


def test_each_student_has_its_own_dropout() -> None:
    """Equal students part ways only through their masks."""

    def parted(dropout: float) -> float:
        cohort = Cohort(make(dropout=dropout), 2)
        both = (cohort.model(student).parameters() for student in (0, 1))  # views of the stacked weights
        for first, second in zip(*both, strict=True):
            second.data.copy_(first)
        cohort.advance([Selection()] * 2, 2)
        pairs = zip(cohort.model(0).parameters(), cohort.model(1).parameters(), strict=True)
        return max(float((one - other).detach().abs().max()) for one, other in pairs)

    assert parted(0.1) > 1e-4
    assert parted(0.0) < 1e-6


def test_a_student_that_diverges_leaves_the_others_alone() -> None:
    def trained(poison: bool) -> tuple[list[StepMetrics[float]], Cohort]:
        cohort = Cohort(make(dropout=0.1), 3)
        cohort.reset(SEEDS)
        if poison:
            with torch.no_grad():
                next(cohort.model(1).parameters()).fill_(torch.nan)
        cohort.advance(PHASES[0], 3)
        return cohort.advance(PHASES[1], 3), cohort

    (sane, one), (reports, other) = trained(poison=False), trained(poison=True)
    assert [report.finite for report in reports] == [True, False, True]
    for i in (0, 2):
        assert reports[i] == sane[i]
        assert torch.equal(weights(one.stacked.students[i]), weights(other.stacked.students[i]))
    eval_results = other.evaluate(other.distillation.task.reward, "reward")
    assert [eval_result.finite for eval_result in eval_results] == [True, False, True]


class Poisoned:
    """The tiny teacher, but its logits are NaN."""

    def __init__(self) -> None:
        (self.inner,) = tiny().distillation.teachers
        self.shape, self.fingerprint, self.flops = self.inner.shape, "poisoned", self.inner.flops

    def __call__(self, batch: Batch, needs: OutputRequest, costs: Any) -> Outputs:
        answer = self.inner(batch, needs, costs)
        return Outputs.of({f: answer[f] * (torch.nan if f.kind == "logits" else 1) for f in needs.fields})


def test_answers_that_are_no_numbers_are_the_teachers_fault() -> None:
    cohort = Cohort(make(teachers=(Poisoned(),)), 2)
    assert all(report.finite for report in cohort.advance([Selection.of("hidden"), Selection()], 2))
    with pytest.raises(InputError, match=r"the teacher answers NaN or infinity \(logits\)"):
        cohort.advance([Selection.of("logits"), Selection.of("hidden")], 2)


def test_it_goes_on_from_its_state_bit_for_bit(tmp_path: Path) -> None:
    """Also where some parameters are already moved student by student; the state is plain tensors and numbers."""
    distillation = make(dropout=0.1, accumulate=2)
    one = Cohort(distillation, 3)
    one.reset(SEEDS)
    for phase in PHASES[:2]:
        one.advance(phase, 3)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other = Cohort(distillation, 3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for phase in PHASES[2:]:
        assert one.advance(phase, 3) == other.advance(phase, 3)
    for i in range(3):
        assert torch.equal(weights(one.stacked.students[i]), weights(other.stacked.students[i]))
    assert one.counts.prices == other.counts.prices
    assert one.costs.flops == other.costs.flops
    assert one.steps_done == other.steps_done == 12


def rows(cohort: Cohort, student: int) -> list[torch.Tensor]:
    """Weights, moments and scales of one student, in an order of their own."""
    stacked, found = cohort.stacked, [weights(cohort.stacked.students[student])]
    for place, one in enumerate(stacked.parameters):
        split = place in stacked._split
        state = stacked.optimizer.state.get(stacked._own[place][student] if split else one, {})
        found += [value if split or not value.dim() else value[student] for _, value in sorted(state.items())]
    tables = cohort.trainer.distiller.scales.state_dict()
    return [*found, *(table[name][student] for table in tables.values() for name in sorted(table))]


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("mixed", [False, True])
def test_who_inherits_is_the_other_bit_for_bit(mixed: bool) -> None:
    """Also where parameters are moved student by student, and some have not moved yet; the others stay as they are."""
    cohort = Cohort(make(), 3)
    cohort.reset(SEEDS)
    everything = [Selection.of("logits", "hidden", "attention")] * 3
    cohort.advance(PHASES[0] if mixed else everything, 3)
    assert bool(cohort.stacked._split) == mixed
    before, prices = [[one.clone() for one in rows(cohort, i)] for i in range(3)], list(cohort.counts.prices)
    cohort.inherit([0, 2, 0])  # the second gets what the third was, not what it becomes
    assert same(rows(cohort, 0), before[0])
    assert same(rows(cohort, 1), before[2])
    assert same(rows(cohort, 2), before[0])
    assert cohort.counts.prices == [prices[0], prices[2], prices[0]]
    cohort.advance([everything[0], Selection(), everything[0]], 3)
    pairs = zip(cohort.model(0).parameters(), cohort.model(2).parameters(), strict=True)
    assert max(float((one - other).detach().abs().max()) for one, other in pairs) < 1e-6  # no dropout: alike ever after


def test_who_inherits_from_the_sane_is_sane() -> None:
    cohort = Cohort(make(), 2)
    with torch.no_grad():
        next(cohort.model(1).parameters()).fill_(torch.nan)
    assert [report.finite for report in cohort.advance([Selection.of("hidden")] * 2, 1)] == [True, False]
    cohort.inherit([0, 0])
    assert all(report.finite for report in cohort.advance([Selection.of("hidden")] * 2, 1))


def test_inheriting_is_gone_on_from(tmp_path: Path) -> None:
    """A journal answers for it, and a state that was saved after it has it."""

    def begun() -> Cohort:
        cohort = Cohort(make(dropout=0.1), 3)
        cohort.replay(ReplayLog(tmp_path, seconds=0))
        cohort.reset(SEEDS)
        cohort.advance(PHASES[0], 2)
        cohort.inherit([1, 1, 0])
        cohort.advance(PHASES[1], 2)
        return cohort

    one, other = begun(), begun()
    for cohort in (one, other):
        cohort.replay(None)
    assert one.counts.prices == other.counts.prices
    one.inherit([0, 0, 2])
    other.inherit([0, 0, 2])
    assert one.advance(PHASES[2], 2) == other.advance(PHASES[2], 2)
    assert all(same(rows(one, i), rows(other, i)) for i in range(3))


def test_a_journal_answers_for_what_was_done(tmp_path: Path) -> None:
    distillation = make(dropout=0.1)
    reward = distillation.task.reward

    def started() -> tuple[Cohort, list[object]]:
        cohort = Cohort(distillation, 3)
        cohort.replay(ReplayLog(tmp_path, seconds=0))
        cohort.reset(SEEDS)
        seen: list[object] = [cohort.evaluate(reward, "reward"), cohort.measure_teacher(reward, "reward")]
        return cohort, [*seen, *cohort.advance(PHASES[0], 3), cohort.counts.prices, cohort.steps_done]

    one, first = started()
    other, again = started()
    assert again == first
    assert other.costs.flops == one.costs.flops
    assert one.advance(PHASES[1], 3) == other.advance(PHASES[1], 3)


def test_the_ledger_counts_answers_once_and_students_each() -> None:
    distillation = make()
    cohort, alone = Cohort(distillation, 3), singles(distillation, SEEDS)
    cohort.reset(SEEDS)
    cohort.advance(PHASES[0], 5)
    everything = Selection.of(*knowledge.DEFAULT)
    for one in alone:
        one.advance(everything, 5)
    spent = alone[0].costs
    assert cohort.costs.flops["teacher"] == spent.flops["teacher"]
    assert cohort.costs.bytes["teacher"] == spent.bytes["teacher"]
    assert cohort.costs.teacher_queries == spent.teacher_queries == 40
    assert cohort.costs.flops["student"] == 3 * spent.flops["student"]
    assert cohort.costs.flops["knowledge"] == 3 * spent.flops["knowledge"]
    assert cohort.costs.steps == 5
    assert cohort.costs.seconds["student"] > 0
    assert cohort.costs.seconds["knowledge"] > 0


def test_the_distillation_is_left_alone() -> None:
    distillation = make(dropout=0.1)
    distillation.reset(1)
    before = weights(distillation.student)
    cohort = Cohort(distillation, 2)
    cohort.advance([Selection()] * 2, 3)
    assert torch.equal(weights(distillation.student), before)
    assert distillation.steps_done == distillation.costs.steps == 0
    assert cohort.steps_done == 3


@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=0),
        DistilBertConfig(vocab_size=VOCABULARY, n_layers=2, dim=16, n_heads=2, hidden_dim=32),
        AlbertConfig(**SIZES, embedding_size=12),
        ElectraConfig(**SIZES, embedding_size=12),
        DebertaV2Config(**SIZES),
        ModernBertConfig(**SIZES, **dict.fromkeys(SPECIAL, 0)),
    ],
    ids=lambda config: config.model_type,
)
def test_every_family_answers_as_alone(config: Any) -> None:
    """In training, so with their gradients, and when asked."""
    for name in [name for name in vars(config) if "drop" in name]:
        setattr(config, name, 0.0)
    distillation = make(make_student=lambda: models.from_config(config)().double(), double=True)
    second = Selection({"attention" if config.model_type != "deberta-v2" else "hidden": 0.5})
    compare(distillation, [(Selection.of("logits", "hidden"), second, Selection())], 2)
    cohort = Cohort(distillation, 2)
    eval_results = cohort.evaluate(distillation.task.reward, "reward")
    for seed in range(2):
        distillation.reset(seed)
        expected = distillation.evaluate(distillation.task.reward, "reward")
        assert eval_results[seed].loss == pytest.approx(expected.loss, rel=1e-9)


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("own_ids", [False, True])
def test_many_embeddings_are_looked_up_as_one_by_one(padding: int | None, own_ids: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, 4, generator=generator, requires_grad=True)
    ids = torch.randint(0, 5, (3, 2, 6), generator=generator)
    pull = torch.randn(3, 2, 6, 4, generator=generator)
    theirs = ids if own_ids else ids[0]
    found = torch.vmap(lambda weight, ids: look_up(weight, ids, padding), in_dims=(0, 0 if own_ids else None))(
        weight, theirs
    )
    (gradient,) = torch.autograd.grad((found * pull).sum(), weight)
    for i in range(3):
        expected = F.embedding(theirs[i] if own_ids else theirs, weight[i], padding)
        (alone,) = torch.autograd.grad((expected * pull[i]).sum(), weight)
        assert torch.equal(found[i], expected)
        assert torch.allclose(gradient.to_dense()[i], alone[i], atol=1e-6)


def test_half_precision() -> None:
    distillation = make(precision="bf16")
    cohort, alone = Cohort(distillation, 3), singles(distillation, SEEDS)
    cohort.reset(SEEDS)
    reports = cohort.advance(PHASES[0], 6)
    for i, one in enumerate(alone):
        assert reports[i].labels == pytest.approx(one.advance(PHASES[0][i], 6).labels, rel=0.02)
    assert all(value.dtype == torch.float32 for value in cohort.stacked.parameters)
    assert all(eval_result.finite for eval_result in cohort.evaluate(distillation.task.reward, "reward"))


def test_what_cannot_work_is_said() -> None:
    distillation = make(steps=3)
    with pytest.raises(InputError, match="needs at least 1 student, got 0"):
        Cohort(distillation, 0)
    cohort = Cohort(distillation, 2)
    with pytest.raises(InputError, match="a cohort of 2 needs one seed a student, got 3"):
        cohort.reset([1, 2, 3])
    with pytest.raises(InputError, match="a cohort of 2 needs one selection a student, got 1"):
        cohort.advance([Selection()], 1)
    with pytest.raises(InputError, match="a cohort of 2 needs one parent a student, got 1"):
        cohort.inherit([0])
    with pytest.raises(IndexError, match="there is no student 2 among 2"):
        cohort.inherit([0, 2])
    with pytest.raises(KeyError, match="values"):
        cohort.advance([Selection(), Selection.of("values")], 1)
    cohort.advance([Selection()] * 2, 9)
    with pytest.raises(ValueError, match="no step to take: 3 of 3 are done"):
        cohort.advance([Selection()] * 2, 1)
    with pytest.raises(ValueError, match="it has taken 4 of 3 steps"):
        cohort.load_counters(cohort.counters() | {"steps_done": 4})
