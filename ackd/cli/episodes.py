"""Policies by name or folder, and episodes under them."""

from __future__ import annotations

from pathlib import Path

from ackd.agents.policy import Policy
from ackd.agents.rules import rule
from ackd.agents.store import load
from ackd.envs.distillation import DistillationEnv
from ackd.envs.recording import Recording


def policy_of(name: str, env: DistillationEnv, *, seed: int = 0) -> Policy:
    """A rule by its name, or a saved policy by its folder or its run's folder.

    Raises:
        InputError: if it is neither.
    """
    path = Path(name)
    if path.exists() or "/" in name or name.startswith("."):
        return load(path / "policy" if (path / "policy").is_dir() else path)
    return rule(name, env.knowledge, seed=seed)


def run_episode(env: Recording, policy: Policy, *, seed: int) -> None:
    """One episode from `seed` to its end."""
    observation, _ = env.reset(seed=seed)
    state, ended = None, False
    while not ended:
        action, state = policy.predict(observation, state, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
