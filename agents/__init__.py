"""Policies: rules, actor-critic agents, and the store of learned policies.

Rules do not need stable-baselines3; it is imported when a name that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ackd.agents.named import NAMED, named
from ackd.agents.policy import Policy
from ackd.agents.rules import RULES, rule

if TYPE_CHECKING:
    from ackd.agents.actor_critic import AGENTS, LOG_INTERVAL, make_agent
    from ackd.agents.card import Card
    from ackd.agents.learned import Actor, LearnedPolicy
    from ackd.agents.set_network import SetNetwork, SetWeights
    from ackd.agents.set_policy import SetPolicy
    from ackd.agents.store import load, save

_HOMES = {
    "AGENTS": "actor_critic",
    "LOG_INTERVAL": "actor_critic",
    "make_agent": "actor_critic",
    "Actor": "learned",
    "Card": "card",
    "LearnedPolicy": "learned",
    "SetNetwork": "set_network",
    "SetPolicy": "set_policy",
    "SetWeights": "set_network",
    "load": "store",
    "save": "store",
}

__all__ = [
    "AGENTS",
    "LOG_INTERVAL",
    "NAMED",
    "RULES",
    "Actor",
    "Card",
    "LearnedPolicy",
    "Policy",
    "SetNetwork",
    "SetPolicy",
    "SetWeights",
    "load",
    "make_agent",
    "named",
    "rule",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ackd.agents' has no attribute {name!r}")
    return getattr(import_module(f"ackd.agents.{_HOMES[name]}"), name)
