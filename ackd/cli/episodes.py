"""Policies by name or folder, and episodes under them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ackd.agents import library
from ackd.agents.policy import Policy
from ackd.agents.rules import RULES, rule
from ackd.agents.store import load
from ackd.envs.distillation import CHOICES, DistillationEnv
from ackd.envs.recording import Recording
from ackd.errors import InputError, unknown


def policy_of(name: str, env: DistillationEnv, *, seed: int = 0) -> Policy:
    """A rule by its name, or a saved policy by its folder, its run's folder, or its name in the store.

    Raises:
        InputError: if it is none of them, or a policy that acts in another action space than the environment's.
    """
    folder = folder_of(name, env.knowledge)
    if folder is None:
        return rule(name, env.knowledge, seed=seed)
    policy = load(folder, seed=seed)
    if not isinstance(env.choice, CHOICES[policy.card.choice]):
        raise InputError(
            f"the policy {name} chooses {policy.card.choice}, and this environment's actions are "
            f"{env.action_space}: make it with choice={policy.card.choice!r}"
        )
    return policy


def folder_of(name: str, knowledge: Sequence[str]) -> Path | None:
    """Where the policy `name` is saved, or None if it is a rule over these knowledge types.

    Raises:
        InputError: if it is neither.
    """
    path = Path(name)
    if name in RULES or set(name.split("+")) <= set(knowledge):
        return None
    if path.exists() or "/" in name or name.startswith("."):
        return path / "policy" if (path / "policy").is_dir() else path
    if "+" in name:  # which one is not known, `rule` will say
        return None
    stored = {entry.name for entry in library.entries()}
    if name not in stored:
        raise unknown("policy", name, {*RULES, *knowledge, *stored})
    return library.find(name)


def run_episode(env: Recording, policy: Policy, *, seed: int) -> None:
    """One episode from `seed` to its end."""
    observation, _ = env.reset(seed=seed)
    state, ended = None, False
    while not ended:
        action, state = policy.predict(observation, state, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
