"""The search against known optima: it gets near, it keeps to its budget, and it is the same from the same seed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.best_schedule import LOGS, Knots, best_schedule
from ackd.agents.learner import choice_of, make_learner
from ackd.agents.leave_one_out import LeaveOneOutBaseline
from ackd.agents.searching import BestSchedule
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import tiny
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.action_spaces import Action
from ackd.mdp.observations import Observation
from tests.played import share, toy

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


def test_the_agent_gets_near_the_optimum_of_the_toy() -> None:
    learner = make_learner("best-schedule", DummyVecEnv([toy] * 8), types=3, decisions=10, episodes=200, seed=0)
    assert share(learner.policy, range(5)) < 0.6  # everything throughout
    learner.learn(2000)
    assert share(learner.policy, range(100, 105)) > 0.8


def test_one_student_at_a_time_will_do() -> None:
    learner = BestSchedule(DummyVecEnv([toy]), decisions=10, episodes=60, seed=0)
    learner.learn(600)
    assert share(learner.policy, range(100, 105)) > 0.6
    assert sum(len(one.gains) for one in learner.tried) == 59  # and the first, with weight 1 throughout


def test_a_round_has_weight_1_the_best_third_and_new_schedules() -> None:
    learner = BestSchedule(DummyVecEnv([toy] * 7), decisions=10, episodes=35, seed=1)
    learner.learn(350)
    had = [len(one.gains) for one in learner.tried]
    assert sum(had) == 5 * 6
    assert len({one.logs.tobytes() for one in learner.tried}) == len(learner.tried)
    assert all(((one.logs >= LOGS[0]) & (one.logs <= LOGS[1])).all() for one in learner.tried)
    first = sorted(learner.tried[:6], key=lambda one: -one.gains[0])
    assert all(len(one.gains) >= 2 for one in first[:2])  # of the first round, the best third
    best = max(learner.tried, key=lambda one: sum(one.gains) / (len(one.gains) + 1))
    assert len(best.gains) >= 2
    weights = dict(zip(("logits", "hidden", "attention"), learner.actor.values.numpy()[:, 1:4].T, strict=True))
    np.testing.assert_allclose(np.stack([*weights.values()], 1), best.logs, atol=1e-6)
    assert learner.actor.values[:, 0].tolist() == [0, 0, 0]  # the toy has no labels to weigh


class Fixed(ToyEnv):
    """Whatever is done, everybody earns the same."""

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, _, over, cut, info = super().step(action)
        return observation, 1.0, over, cut, info


def test_what_is_no_better_than_weight_1_is_not_kept() -> None:
    learner = BestSchedule(DummyVecEnv([lambda: Fixed(choice="weights")] * 4), decisions=10, episodes=12, seed=0)
    learner.learn(120)
    assert not learner.actor.values.any()


def test_the_same_seed_learns_the_same() -> None:
    found = []
    for seed in (0, 0, 1):
        learner = BestSchedule(DummyVecEnv([toy] * 4), decisions=10, episodes=24, seed=seed)
        learner.learn(240)
        found.append(learner.actor.values.numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_it_learns_from_a_cohort() -> None:
    cohort = CohortEnv([tiny(choice=choice_of("best-schedule"), decisions=2, reward_every=12)], 4, paired=True)
    learner = make_learner("best-schedule", LeaveOneOutBaseline(cohort), types=3, decisions=2, episodes=12, seed=0)
    learner.learn(24)
    assert isinstance(learner, BestSchedule)
    assert sum(len(one.gains) for one in learner.tried) == 3 * 3
    assert cohort.cohort.steps_done == 0  # no episode is left over
    observation, _ = tiny(choice="weights").reset(seed=0)
    action, _ = learner.policy.predict(observation, deterministic=True)
    assert ((action >= 0) & (action <= 1)).all()
    assert not action[4:].any()


def test_the_agent_refuses_what_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="best-schedule compares students in one setting, and there are 3"):
        BestSchedule(DummyVecEnv([toy]), decisions=10, episodes=4, settings=3)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs Optuna, which is not installed: pip install 'ackd\[search\]'"):
        BestSchedule(DummyVecEnv([toy]), decisions=10, episodes=4)
