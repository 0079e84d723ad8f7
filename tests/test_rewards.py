"""Rewards telescope, fall back where there is no gap, and pay what they say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackd.episode import Episode, Phase
from ackd.errors import InputError
from ackd.rewards import Exploring, Final, GapClosed, NegativeLoss, named
from ackd.types import Report, Selection, Standing


def phase(
    loss: float, score: float = 0.5, *, chosen: tuple[str, ...] = (), steps: int = 10, share: float = 0.5
) -> Phase:
    report = Report(1.0, 1.0, 1.0, 0.5, 0.5, dict.fromkeys(chosen, 1.0))
    return Phase(Selection.of(*chosen), report, Standing(loss, score), steps, 1.0, share * 100.0, 100.0)


def episode(start: float, teacher: float, losses: list[float], interval: int = 10) -> list[Episode]:
    grown = [Episode(Standing(start, 0.1), Standing(teacher, 0.9), interval * len(losses), interval)]
    for loss in losses:
        grown.append(grown[-1].then(phase(loss)))
    return grown[1:]


finite = st.floats(0.0, 5.0)


@given(start=finite, teacher=finite, losses=st.lists(finite, min_size=1, max_size=8))
def test_improvements_telescope(start: float, teacher: float, losses: list[float]) -> None:
    reward = GapClosed(cost_weight=0.0)
    total = math.fsum(reward(one).total for one in episode(start, teacher, losses))
    gap = start - teacher if start - teacher >= 0.01 else 1.0
    assert total == pytest.approx((start - losses[-1]) / gap, abs=1e-9)


def test_there_may_be_no_gap_to_close() -> None:
    assert GapClosed().gap(episode(1.0, 0.5, [0.8])[0]) == 0.5
    assert GapClosed().gap(episode(1.0, 0.995, [0.8])[0]) is None
    assert GapClosed(on="score").gap(episode(0.5, 1.0, [0.8])[0]) == pytest.approx(0.8)  # only the loss has none
    assert GapClosed().gap(Episode(Standing(1.0, 0.1), None, 20, 10)) is None
    assert GapClosed().gap(Episode(None, None, 20, 10)) is None


def test_the_cost_of_everything_throughout_is_the_cost_weight() -> None:
    grown = Episode(Standing(1.0, 0.0), Standing(0.5, 0.0), 25, 10)
    paid = 0.0
    for steps in (10, 10, 5):
        grown = grown.then(phase(1.0, steps=steps, share=1.0))
        paid += GapClosed(cost_weight=0.3)(grown).cost
    assert paid == pytest.approx(0.3)
    assert grown.decisions_left == 0


def test_a_run_that_reaches_its_teacher_returns_one() -> None:
    for on, values in (("loss", [0.9, 0.5]), ("score", [0.9, 0.5])):
        reward = GapClosed(0.0, on)  # type: ignore[arg-type]
        grown = Episode(Standing(1.0, 0.1), Standing(0.5, 0.9), 20, 10)
        total = 0.0
        for loss, score in zip(values, (0.4, 0.9), strict=True):
            grown = grown.then(phase(loss, score))
            total += reward(grown).total
        assert total == pytest.approx(1.0)


def test_alternatives() -> None:
    middle, last = episode(1.0, 0.5, [0.8, 0.7])
    assert NegativeLoss()(middle).total == -0.8
    assert Final()(middle).total == 0.0
    assert Final()(last).total == 0.5


def test_exploration_pays_for_what_is_new() -> None:
    grown = Episode(Standing(1.0, 0.1), Standing(0.5, 0.9), 40, 10)
    hard, soft = Exploring(GapClosed(0.0), "hard", eta=1.0), Exploring(GapClosed(0.0), "soft", eta=1.0)
    bonuses = []
    for chosen in (("a",), ("a",), ("b",), ("a", "b")):
        grown = grown.then(phase(1.0, chosen=chosen))
        bonuses.append((hard(grown).bonus, soft(grown).bonus))
    expected = [(1.0, 0.0), (2**-0.5, 0.0), (1.0, 1.0), (1.0, 1 - 2**-0.5)]
    assert bonuses == [pytest.approx(pair) for pair in expected]


def test_unknown_rewards_are_named() -> None:
    assert named("gap", 0.2) == GapClosed(0.2)
    with pytest.raises(InputError, match="'gapp': did you mean 'gap'"):
        named("gapp", 0.1)
