"""Learned policies as open-loop schedules: their mean weights over the course of a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ackd.agents.learned import LearnedPolicy
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import MOST_KNOTS, ProbeRule, Schedule
from ackd.errors import InputError
from ackd.mdp.observations import FAMILIES

MEAN = "mean_log2_weights"  # name among a policy's metrics; [decisions, families]


def open_loop(policy: LearnedPolicy) -> Schedule:
    """The schedule of a policy's mean actions, which depends only on the progress.

    Raises:
        InputError: if the policy does not give weights, or stores no mean of them.
    """
    network, kept = policy.network, policy.card.metrics.get(MEAN)
    if isinstance(network, Schedule):
        return Schedule(len(network.values), network.values)
    if kept is None:
        if isinstance(network, ResidualNetwork):
            return network.schedule
        raise InputError(
            f"the policy {policy.card.name!r} of {policy.card.algorithm} keeps no mean actions that could be replayed: "
            "name one that was learned by cem or residual"
        )
    try:
        table = np.asarray(kept, dtype=np.float64)
        whole = table.ndim == 2 and 1 <= len(table) <= MOST_KNOTS // 2 - 1 and table.shape[1] == len(FAMILIES)
    except (TypeError, ValueError):
        whole = False
    if not whole or not np.isfinite(table).all():
        raise InputError(
            f"the policy {policy.card.name!r} has mean actions that cannot be read: train the policy again"
        )
    return Schedule.through(table)


def replayed(policy: LearnedPolicy) -> LearnedPolicy:
    """A policy's mean actions, open loop; the comparison shows what its other observations are worth."""
    return _acting(open_loop(policy), policy)


def guarded(policy: LearnedPolicy) -> LearnedPolicy:
    """A policy's mean actions, open loop, with the rule of `ProbeRule`."""
    schedule = open_loop(policy)
    return _acting(ProbeRule(len(schedule.values), schedule.values), policy)


def _acting(network: Schedule, policy: LearnedPolicy) -> LearnedPolicy:
    card = replace(policy.card, kind=network.kind, choice="weights", sizes=network.sizes)
    return LearnedPolicy(network, card)
