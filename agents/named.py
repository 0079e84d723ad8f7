"""Policies that need no learning before they are used, by their names."""

from __future__ import annotations

from collections.abc import Sequence

from ackd.agents.balancing import BALANCERS, balancer
from ackd.agents.policy import Policy
from ackd.agents.rules import RULES, rule

NAMED = (*RULES, *BALANCERS)


def named(name: str, terms: Sequence[str], *, seed: int = 0) -> Policy:
    """A rule, weights of terms, or a method of loss balancing.

    Args:
        name: one of `NAMED`, or as `rule` takes it.
        terms: the labels, where they can be weighted, and the knowledge types, in the order of the action's entries.
        seed: of the random ones.

    Raises:
        InputError: if a name is not known, or a weight cannot be.
    """
    return balancer(name, seed=seed) if name in BALANCERS else rule(name, terms, seed=seed)
