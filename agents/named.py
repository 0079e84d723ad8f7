"""Policies that need no learning before their use, by name."""

from __future__ import annotations

from collections.abc import Sequence

from ackd.agents.balancing import BALANCERS, balancer
from ackd.agents.policy import Policy
from ackd.agents.rules import RULES, rule

NAMED = (*RULES, *BALANCERS)


def named(name: str, terms: Sequence[str], *, seed: int = 0) -> Policy:
    """Makes a rule, a policy of fixed weights, or a method of loss balancing.

    Args:
        name: one of `NAMED`, or another name that `rule` accepts.
        terms: the labels, if they can be weighted, and the knowledge types, in the order of the action's entries.
        seed: seed of the random policies.

    Raises:
        InputError: if a name is unknown, or a weight is invalid.
    """
    return balancer(name, seed=seed) if name in BALANCERS else rule(name, terms, seed=seed)
