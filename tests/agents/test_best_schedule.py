"""The search against known optima: it gets near, it keeps to its budget, and it is the same from the same seed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ackd.agents.best_schedule import LOGS, Knots, best_schedule
from ackd.errors import InputError

FAMILIES = ("labels", "hidden")


class Students:
    """What a student earns falls with the square of its schedule's distance from the best; each seed has its luck."""

    def __init__(self, families: int, seed: int, noise: float = 0.02, knots: int = 3) -> None:
        rng = np.random.default_rng((7, seed))
        self.optimum: NDArray[np.float64] = rng.uniform(-2.5, 2.5, (knots, families))
        self.noise = noise
        self.calls: list[tuple[list[Knots], list[int]]] = []

    def __call__(self, schedules: Sequence[Knots], seeds: Sequence[int]) -> list[float]:
        self.calls.append((list(schedules), list(seeds)))
        return [
            1 - self.distance(one) ** 2 / 10 + self.luck(one, seed) for one, seed in zip(schedules, seeds, strict=True)
        ]

    def distance(self, schedule: Knots) -> float:
        return float(np.sqrt(np.square(schedule - self.optimum).mean()))

    def luck(self, schedule: Knots, seed: int) -> float:
        own = int(np.abs(schedule).sum() * 1e9)
        shared, alone = (float(np.random.default_rng(key).normal()) for key in (seed, (seed, own)))
        return self.noise * (shared + alone)


def test_it_finds_what_is_best() -> None:
    """With 64 students near the optimum, nearer than the best of 64 random schedules by far."""
    found, drawn = [], []
    for seed in range(8):
        students = Students(len(FAMILIES), seed)
        found.append(students.distance(best_schedule(students, FAMILIES, 64, seed)))
        random = np.random.default_rng(seed).uniform(*LOGS, (64, 3, len(FAMILIES)))
        drawn.append(students.distance(max(random, key=lambda one, s=students: s([one], [0])[0])))  # type: ignore[misc]
    assert max(found) < 1.0
    assert np.mean(found) < 0.7
    assert np.mean(found) < 0.85 * np.mean(drawn)


def test_three_numbers_are_found_closely() -> None:
    for seed in range(4):
        students = Students(1, seed, noise=0.0)
        assert students.distance(best_schedule(students, ("logits",), 96, seed)) < 0.35


def test_it_trains_as_many_students_as_it_may_and_the_best_of_them_most() -> None:
    students = Students(len(FAMILIES), 3)
    best = best_schedule(students, FAMILIES, 50, seed=7, side_by_side=6)
    assert sum(len(seeds) for _, seeds in students.calls) == 50
    assert all(len(seeds) == len(schedules) <= 12 for schedules, seeds in students.calls)
    had = Counter(one.tobytes() for schedules, _ in students.calls for one in schedules)
    assert set(had.values()) <= {1, 2, 3}  # 2 where the students ran out
    assert had[best.tobytes()] == 3
    tried = [one for schedules, _ in students.calls for one in schedules]
    assert not tried[0].any()  # weight 1 throughout
    assert all(one.shape == (3, 2) for one in tried)
    assert all(((one >= LOGS[0]) & (one <= LOGS[1])).all() for one in tried)
    seeds = Counter(
        (one.tobytes(), seed) for schedules, those in students.calls for one, seed in zip(schedules, those, strict=True)
    )
    assert set(seeds.values()) == {1}  # no student twice
    assert {seed for _, seed in seeds} == {7, 8, 9}


def test_the_best_third_so_far_goes_on() -> None:
    """Each schedule when its turn comes: at first the best one alone, then one in three."""
    students, other = Students(len(FAMILIES), 1), Students(len(FAMILIES), 1)
    best_schedule(students, FAMILIES, 80, seed=0)
    tried = [one for schedules, seeds in students.calls for one in schedules if seeds[0] == 0]
    had = Counter(one.tobytes() for schedules, _ in students.calls for one in schedules)
    earned: list[float] = []
    for one in tried[:-4]:  # for the last ones there may be no students left
        earned.append(other([one], [0])[0])
        rank = sorted(earned, reverse=True).index(earned[-1])
        assert (had[one.tobytes()] == 3) == (rank < max(len(earned) // 3, 1))
    assert len(tried) > 30


def test_the_same_seed_finds_the_same() -> None:
    first, again, other = (best_schedule(Students(2, 5), FAMILIES, 32, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_few_students_find_something() -> None:
    for students in range(1, 6):
        assert best_schedule(Students(2, 5, knots=2), FAMILIES, students, knots=2).shape == (2, 2)


def test_what_cannot_be_searched_is_said() -> None:
    with pytest.raises(InputError, match="0 students, 4 at once, 3 knots and 2 families find no schedule"):
        best_schedule(Students(2, 5), FAMILIES, 0)
    with pytest.raises(ValueError, match="4 students have to earn as many finite rewards"):
        best_schedule(lambda schedules, seeds: [float("nan")] * len(seeds), FAMILIES, 8)


def test_without_optuna_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs Optuna, which is not installed: pip install 'ackd\[search\]'"):
        best_schedule(Students(2, 5), FAMILIES, 8)
