"""A schedule and its corrections with one budget of students: no more are trained than were planned."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils.flop_counter import FlopCounterMode

from ackd.agents.correcting import LEAST_CHECKED, LEAST_ROUNDS, LEAST_STUDENTS, Correcting, planned
from ackd.agents.learner import make_learner
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import tiny
from ackd.mdp.action_spaces import Action
from ackd.mdp.observations import Observation


@given(rounds=st.integers(1, 300), students=st.integers(1, 20), settings=st.integers(1, 20), search=st.booleans())
def test_a_plan_spends_its_rounds_and_no_more(rounds: int, students: int, settings: int, search: bool) -> None:
    plan = planned(rounds, students, settings, search=search)
    correcting = plan.rollouts * plan.rollout
    assert plan.rounds == rounds if search else plan.searching == 0
    assert (
        rounds - max(plan.rollouts, 1) < plan.rounds <= rounds
    )  # what is left over is less than one more for each rollout
    assert not plan.checking or students >= LEAST_CHECKED
    if correcting * students >= LEAST_STUDENTS:
        assert plan.rollout * students >= LEAST_STUDENTS
    if search and rounds >= LEAST_ROUNDS:
        assert 0 < correcting <= -(-rounds // 4)


def test_the_end_of_a_plan_compares() -> None:
    checked = {students: planned(40, students, 9, search=True).checking for students in (5, 6, 7)}
    assert checked == {5: 0, 6: 4, 7: 4}  # two students of each kind, in at most four settings
    assert planned(40, 6, 2, search=True).checking == 2


class Still(gymnasium.Env[Observation, Action]):
    """Shows always the same, earns what the labels weigh, and counts its steps."""

    def __init__(self, env: DistillationEnv, decisions: int) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.shown, _ = env.reset(seed=0)
        self.decisions, self.steps, self.begun = decisions, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        assert seed is None or not self.begun, "seeds begin the order of instances anew"
        super().reset(seed=seed)
        self.begun += 1
        return self.shown, {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.shown, float(action[0]), self.steps % self.decisions == 0, False, {}


def same(env: Still) -> Still:
    return env


@pytest.fixture(scope="module")
def env() -> DistillationEnv:
    return tiny(choice="weights")


@pytest.mark.parametrize(("episodes", "students"), [(1, 1), (4, 1), (8, 1), (40, 1), (12, 3), (48, 6), (32, 8)])
def test_just_so_many_students_are_trained(env: DistillationEnv, episodes: int, students: int) -> None:
    envs = [Still(env, 2) for _ in range(students)]
    venv = DummyVecEnv([partial(same, one) for one in envs])
    learner = make_learner("residual", venv, types=3, decisions=2, episodes=episodes, seed=0)
    learner.learn(2 * episodes)
    assert [one.steps for one in envs] == [2 * episodes // students] * students
    assert [one.begun for one in envs] == [episodes // students + 1] * students  # none is passed over
    action, _ = learner.policy.predict({name: np.asarray(value) for name, value in envs[0].shown.items()})
    assert venv.action_space.contains(action)


def test_a_decision_costs_what_torch_counts_once_to_act_and_thrice_in_each_epoch(env: DistillationEnv) -> None:
    one = Still(env, 2)
    learner = make_learner("residual", DummyVecEnv([partial(same, one)]), types=3, decisions=2, episodes=4, seed=0)
    assert isinstance(learner, Correcting)
    assert env.action_space.shape is not None
    shown = {name: torch.as_tensor(np.asarray(value))[None] for name, value in one.shown.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        learner.actor.distribution(shown)
    schedule = learner.actor.schedule.flops(env.action_space.shape[0])  # no product that torch counts
    assert learner.flops == (1 + 3 * 8) * (counter.get_total_flops() + schedule)
