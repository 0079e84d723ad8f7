"""Runs a policy that learns from every decision in its environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ackd.agents.policy import Observations, OnlinePolicy, State, Transition

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def learn(
    policy: OnlinePolicy,
    env: VecEnv,
    decisions: int,
    on_step: Callable[[int, Transition], None] | None = None,
) -> int:
    """Let the policy act and learn until `decisions` decisions are made, counted over environments.

    Args:
        policy: the policy that acts and learns.
        env: one or more environments; they are reset first.
        decisions: least number of decisions; all environments decide together.
        on_step: called after each update with the number of decisions so far and the transition.

    Returns:
        The number of decisions made.
    """
    observation = cast(Observations, env.reset())
    state: State | None = None
    starts, made = np.ones(env.num_envs, dtype=bool), 0
    while made < decisions:
        action, state = policy.predict(observation, state, starts)
        after, reward, starts, infos = env.step(action)
        following = cast(Observations, after)
        transition = Transition(observation, action, reward, _last(following, starts, infos), starts)
        policy.update(transition)
        observation, made = following, made + env.num_envs
        if on_step:
            on_step(made, transition)
    return made


def _last(following: Observations, over: NDArray[np.bool_], infos: Sequence[Mapping[str, Any]]) -> Observations:
    """The observations; if a new episode has begun, the last observation of the old one."""
    ended = np.flatnonzero(over).tolist()
    if not ended:
        return following
    last = {name: value.copy() for name, value in following.items()}
    for row in ended:
        for name, value in infos[row]["terminal_observation"].items():
            last[name][row] = value
    return last
