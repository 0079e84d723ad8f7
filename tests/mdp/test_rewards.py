"""Rewards telescope, fall back where there is no gap, and pay what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackd.config import EpisodeConfig
from ackd.errors import InputError
from ackd.mdp.episode import Episode, Phase
from ackd.mdp.rewards import GAPS, LOWER, Exploring, Final, GapClosed, Measure, NegativeLoss, gap_of, named
from ackd.types import EvalResult, Selection, StepMetrics


def phase(
    loss: float, score: float = 0.5, *, chosen: tuple[str, ...] = (), steps: int = 10, share: float = 0.5
) -> Phase:
    report = StepMetrics(1.0, 1.0, 1.0, 0.5, 0.5, dict.fromkeys(chosen, 1.0))
    return Phase(Selection.of(*chosen), report, EvalResult(loss, score), steps, 1.0, share * 100.0, 100.0)


def episode(start: float, teacher: float, losses: list[float], interval: int = 10) -> list[Episode]:
    grown = [Episode(EvalResult(start, 0.1), EvalResult(teacher, 0.9), interval * len(losses), interval)]
    for loss in losses:
        grown.append(grown[-1].then(phase(loss)))
    return grown[1:]


def eval_result(on: str, value: float) -> EvalResult:
    """One of that measure; nothing else tells it apart."""
    if on == "agreement":
        return EvalResult(1.0, 0.5, teacher_correlation=value, label_correlation=value)
    own: dict[str, Any] = {on: value}
    return replace(EvalResult(1.0, 0.5), **own)


def measured(on: str, start: float, teacher: float, values: list[float]) -> list[Episode]:
    grown = [Episode(eval_result(on, start), eval_result(on, teacher), 10 * len(values), 10)]
    for value in values:
        grown.append(grown[-1].then(replace(phase(1.0), eval_result=eval_result(on, value))))
    return grown[1:]


finite = st.floats(0.0, 5.0)
PLAIN = [on for on in GAPS.values() if on != "either"]  # which is made of two others and the teacher's own
every_measure = pytest.mark.parametrize("on", PLAIN)


@every_measure
@given(start=finite, teacher=finite, values=st.lists(finite, min_size=1, max_size=8))
def test_improvements_telescope(on: Measure, start: float, teacher: float, values: list[float]) -> None:
    reward, sign = GapClosed(on=on), -1 if on in ("loss", "divergence") else 1
    total = math.fsum(reward(one).total for one in measured(on, start, teacher, values))
    whole = sign * (teacher - start)
    gap = whole if whole >= 0.01 else 1.0
    assert total == pytest.approx(sign * (values[-1] - start) / gap, abs=1e-9)


@every_measure
def test_a_run_that_reaches_its_teachers_measure_returns_one(on: Measure) -> None:
    start, teacher = (0.9, 0.0) if on in ("loss", "divergence") else (0.1, 1.0)
    total = math.fsum(GapClosed(on=on)(one).total for one in measured(on, start, teacher, [0.5, 0.3, teacher]))
    assert total == pytest.approx(1.0)


@every_measure
def test_a_gap_of_the_wrong_sign_or_next_to_none_gives_plain_differences(on: Measure) -> None:
    better, worse = (0.2, 0.8) if on in LOWER else (0.8, 0.2)
    for start, teacher in ((better, worse), (0.5, 0.5), (0.5, 0.495 if on in LOWER else 0.505)):
        one = measured(on, start, teacher, [better])[0]
        assert GapClosed(on=on).gap(one) is None
        assert GapClosed(on=on)(one).improvement == pytest.approx(abs(better - start))


@every_measure
def test_a_reward_reads_its_own_measure_alone(on: Measure) -> None:
    both = {"teacher_correlation", "agreement"}  # one is a part of the other
    for other in {*PLAIN} - (both if on in both else {on}):
        assert GapClosed(on=on)(measured(other, 0.1, 0.9, [0.7])[0]).total == 0.0


def test_there_may_be_no_gap_to_close() -> None:
    by_loss = GapClosed(on="loss")
    assert by_loss.gap(episode(1.0, 0.5, [0.8])[0]) == 0.5
    assert by_loss.gap(episode(1.0, 0.995, [0.8])[0]) is None
    assert GapClosed(on="score").gap(episode(0.5, 1.0, [0.8])[0]) == pytest.approx(0.8)  # only the loss has none
    assert by_loss.gap(Episode(EvalResult(1.0, 0.1), None, 20, 10)) is None
    assert GapClosed().gap(Episode(None, None, 20, 10)) is None


def test_agreement_is_half_with_the_teacher_and_half_with_the_labels() -> None:
    pairs = ((0.2, 0.4), (0.6, 0.5), (1.0, 0.8))
    start, end, teacher = (EvalResult(1.0, 0.5, teacher_correlation=t, label_correlation=y) for t, y in pairs)
    one = Episode(start, teacher, 10, 10).then(replace(phase(1.0), eval_result=end))
    assert GapClosed(on="agreement")(one).total == pytest.approx((0.55 - 0.3) / (0.9 - 0.3))
    assert GapClosed(on="teacher_correlation")(one).total == pytest.approx((0.6 - 0.2) / (1.0 - 0.2))


@pytest.mark.parametrize(
    ("teacher", "labels", "known", "value"),
    [
        (0.7, 0.5, 0.8, 0.7),  # it knows more of the teacher
        (0.7, 0.5, 0.5, 0.95),  # it knows as much of the labels as the teacher does
        (0.2, 0.6, 0.4, 0.95 * 1.5),  # it outdoes the teacher
        (0.9, 0.3, 0.04, 0.3),  # there is nothing to learn from the teacher
    ],
)
def test_a_student_that_outdoes_its_teacher_is_judged_by_the_labels(
    teacher: float, labels: float, known: float, value: float
) -> None:
    taught = Episode(None, EvalResult(0.5, 0.9, teacher_correlation=1.0, label_correlation=known), 10, 10)
    eval_result = EvalResult(1.0, 0.5, teacher_correlation=teacher, label_correlation=labels)
    assert GapClosed().measured(taught, eval_result) == pytest.approx(value)
    assert GapClosed().measured(replace(taught, teacher=None), eval_result) == labels
    assert GapClosed(on="teacher_correlation").measured(taught, eval_result) == teacher


def test_nothing_is_paid_for_unless_it_is_asked_for() -> None:
    grown = Episode(EvalResult(1.0, 0.0), EvalResult(0.5, 0.0), 10, 10).then(phase(1.0, share=1.0))
    assert GapClosed()(grown).cost == 0.0
    assert EpisodeConfig.cost_weight == 0.0


def test_the_cost_of_everything_throughout_is_the_cost_weight() -> None:
    grown = Episode(EvalResult(1.0, 0.0), EvalResult(0.5, 0.0), 25, 10)
    paid = 0.0
    for steps in (10, 10, 5):
        grown = grown.then(phase(1.0, steps=steps, share=1.0))
        paid += GapClosed(cost_weight=0.3)(grown).cost
    assert paid == pytest.approx(0.3)
    assert grown.decisions_left == 0


def test_alternatives() -> None:
    middle, last = episode(1.0, 0.5, [0.8, 0.7])
    assert NegativeLoss()(middle).total == -0.8
    assert Final()(middle).total == 0.0
    assert Final()(last).total == 0.5


def test_exploration_pays_for_what_is_new() -> None:
    grown = Episode(EvalResult(1.0, 0.1), EvalResult(0.5, 0.9), 40, 10)
    hard, soft = Exploring(GapClosed(0.0), "hard", eta=1.0), Exploring(GapClosed(0.0), "soft", eta=1.0)
    bonuses = []
    for chosen in (("a",), ("a",), ("b",), ("a", "b")):
        grown = grown.then(phase(1.0, chosen=chosen))
        bonuses.append((hard(grown).bonus, soft(grown).bonus))
    expected = [(1.0, 0.0), (2**-0.5, 0.0), (1.0, 1.0), (1.0, 1 - 2**-0.5)]
    assert bonuses == [pytest.approx(pair) for pair in expected]


def test_unknown_rewards_are_named() -> None:
    assert named("gap", 0.2) == GapClosed(0.2)
    assert [named(name, 0.0) for name in GAPS] == [GapClosed(on=on) for on in GAPS.values()]
    with pytest.raises(InputError, match="'gapp': did you mean 'gap'"):
        named("gapp", 0.1)


def test_a_bonus_leaves_the_gap_what_it_is() -> None:
    assert gap_of(named("gap+explore-hard", 0.1)) == gap_of(named("gap", 0.1)) == GapClosed(0.1)
    assert gap_of(named("neg-loss", 0.1)) is None
