"""The cross-entropy method: its update by hand, and what it finds where the optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.cem import Cem, Distribution
from ackd.agents.learner import make_learner
from ackd.agents.leave_one_out import LeaveOneOutBaseline
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import tiny
from tests.played import share, toy


def test_the_distribution_moves_towards_the_elite() -> None:
    search = Distribution(2, spread=1.0, least=0.1, elite=0.5)
    samples = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 2.0], [9.0, 9.0], [8.0, 8.0]])
    search.learn(samples, np.array([0.0, 5.0, 4.0, 1.0, np.nan]))
    a, b, c = (np.log(3.5 / place) for place in (1, 2, 3))
    mean = (a * samples[1] + b * samples[2] + c * samples[3]) / (a + b + c)
    second = (a * samples[1] ** 2 + b * samples[2] ** 2 + c * samples[3] ** 2) / (a + b + c)
    assert search.mean == pytest.approx(mean)
    assert search.std == pytest.approx(np.sqrt(second - mean**2))
    search.learn(samples[[1, 1, 1, 1]], np.arange(4.0))
    assert search.mean == pytest.approx([1.0, 2.0])
    assert search.std == pytest.approx([0.1, 0.1])
    for earned in (np.zeros(4), np.full(4, np.nan)):
        search.learn(samples[:4], earned)
        assert search.mean == pytest.approx([1.0, 2.0])  # what all earned alike teaches nothing


def test_what_is_known_is_tried_beside_draws() -> None:
    search = Distribution(3, spread=2.0, seed=1)
    search.mean = np.array([1.0, -1.0, 0.0])
    drawn = search.draw(4000)
    assert drawn[0].tolist() == [1.0, -1.0, 0.0]
    assert drawn.mean(0) == pytest.approx(search.mean, abs=0.15)
    assert drawn.std(0) == pytest.approx([2.0] * 3, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cem", "residual"])
def test_reaches_the_optimum_of_the_toy(name: str) -> None:
    learner = make_learner(name, DummyVecEnv([toy] * 8), types=3, decisions=10, episodes=200, seed=0)
    assert share(learner.policy, range(5)) < 0.6  # everything throughout
    learner.learn(2000)
    assert share(learner.policy, range(100, 105)) > 0.95


def test_same_seed_same_schedule() -> None:
    found = []
    for seed in (0, 0, 1):
        learner = Cem(DummyVecEnv([toy] * 4), decisions=10, episodes=24, seed=seed)
        learner.learn(240)
        found.append(learner.actor.values.numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_what_several_settings_taught_is_shrunk() -> None:
    learner = Cem(DummyVecEnv([toy] * 8), decisions=10, episodes=16, settings=2, seed=0)
    learner.learn(160)
    search = Distribution(len(learner.actor.values) * 5, seed=0)
    for samples, earned in learner.history:
        search.learn(samples, earned)
    there = [0, 1, 2, 3]  # labels, logits, hidden, attention; labels cannot be weighted in the toy
    found = search.mean.reshape(-1, 5)[:, there[1:]]
    np.testing.assert_allclose(learner.actor.values[:, there[1:]], found / 2, atol=1e-6)


def test_a_family_that_was_never_there_gets_the_mean_of_the_types() -> None:
    learner = Cem(DummyVecEnv([toy] * 8), decisions=10, episodes=16, seed=0)
    learner.learn(160)
    weights = dict(zip(("labels", "logits", "hidden", "attention", "relation"), learner.actor.values.T, strict=True))
    assert learner.seen == {"logits", "hidden", "attention"}
    there = (weights["logits"] + weights["hidden"] + weights["attention"]) / 3
    np.testing.assert_allclose(weights["relation"], there, atol=1e-6)
    assert weights["labels"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["cem", "residual"])
def test_it_learns_from_a_cohort(name: str) -> None:
    """On students that differ in their schedules alone, and no episode is left over."""
    cohort = CohortEnv([tiny(choice="weights", decisions=2)], 6, paired=True)
    learner = make_learner(name, LeaveOneOutBaseline(cohort), types=3, decisions=2, episodes=24, seed=0)
    learner.learn(48)
    assert len(set(cohort.cohort.counts.seeds)) == 1
    assert cohort.cohort.steps_done == 0
    observation, _ = tiny(choice="weights").reset(seed=0)
    action, _ = learner.policy.predict(observation, deterministic=True)
    assert ((action >= 0) & (action <= 1)).all()
    assert not action[4:].any()
