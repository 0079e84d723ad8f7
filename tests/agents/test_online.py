"""What a learning policy is told, checked against the environments themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.online import learn
from ackd.agents.policy import Observations, State, Transition
from ackd.agents.rules import rule
from ackd.envs.toy import ToyEnv


class Listener:
    """Acts at random and keeps what it is told."""

    def __init__(self) -> None:
        self.inner = rule("random", ("hidden", "attention", "logits"), seed=1)
        self.heard: list[Transition] = []
        self.starts: list[list[bool]] = []
        self.states: list[Any] = []

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        assert episode_start is not None
        self.starts.append(episode_start.tolist())
        self.states.append(state)
        return self.inner.predict(observation)[0], (np.array(len(self.starts)),)

    def update(self, transition: Transition) -> None:
        self.heard.append(transition)


@pytest.fixture
def listener() -> Listener:
    policy = Listener()
    env = DummyVecEnv([lambda: ToyEnv(decisions=3), lambda: ToyEnv(decisions=2)])
    env.seed(7)
    steps: list[int] = []
    assert learn(policy, env, 13, lambda made, transition: steps.append(made)) == 14  # both decide together
    assert steps == [2, 4, 6, 8, 10, 12, 14]
    return policy


def test_it_is_told_what_the_environments_said(listener: Listener) -> None:
    for row, decisions in enumerate((3, 2)):
        env = ToyEnv(decisions=decisions)
        before, _ = env.reset(seed=7 + row)
        for heard in listener.heard:
            assert data_equivalence({k: v[row] for k, v in heard.observation.items()}, before, exact=True)
            after, reward, over, _, _ = env.step(heard.action[row])
            assert heard.reward[row] == np.float32(reward)
            assert heard.over[row] == over
            assert data_equivalence({k: v[row] for k, v in heard.following.items()}, after, exact=True)
            before = env.reset()[0] if over else after


def test_starts_and_states_are_handed_on(listener: Listener) -> None:
    assert listener.starts == [[t % 3 == 0, t % 2 == 0] for t in range(7)]
    assert listener.states[0] is None
    assert [int(state[0]) for state in listener.states[1:]] == [1, 2, 3, 4, 5, 6]
