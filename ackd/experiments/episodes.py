"""Finds saved policies and runs episodes under them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ackd.agents import library, store
from ackd.agents.learned import LearnedPolicy
from ackd.agents.named import NAMED
from ackd.agents.policy import OnlinePolicy, Policy, Transition
from ackd.agents.refine import OnlineFinetuning
from ackd.envs.recording import Recording
from ackd.errors import unknown
from ackd.files.hub import is_named
from ackd.mdp.observations import Observation


def folder_of(name: str, knowledge: Sequence[str]) -> Path | None:
    """The folder of the saved policy `name`; None if `name` is a rule over these knowledge types.

    Raises:
        InputError: if it is neither.
    """
    path = Path(name)
    if name in NAMED or name in knowledge:
        return None
    if path.exists() or "/" in name or name.startswith(".") or is_named(name):
        return store.within(name)
    if any(sign in name for sign in "+,:"):  # weights of terms: `rule` checks them
        return None
    stored = {entry.name for entry in library.entries()}
    if name not in stored:
        raise unknown("policy", name, {*NAMED, *knowledge, *stored})
    return library.find(name)


def run_episode(env: Recording, policy: Policy, *, seed: int, learner: OnlinePolicy | None = None) -> None:
    """Runs one episode from `seed`; a `learner` receives every transition and may explore."""
    observation, _ = env.reset(seed=seed)
    if isinstance(policy, LearnedPolicy | OnlineFinetuning):
        env.agent_flops = policy.flops(observation["mask"].size)
    state, over = None, False
    while not over:
        action, state = policy.predict(observation, state, deterministic=learner is None)
        following, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        if learner is not None:
            learner.update(
                Transition(
                    _row(observation), action[None], np.array([reward], np.float32), _row(following), np.array([over])
                )
            )
        observation = following


def _row(observation: Observation) -> Observation:
    return {name: value[None] for name, value in observation.items()}
