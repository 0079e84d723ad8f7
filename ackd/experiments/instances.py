"""Checks that one agent can learn on a set of instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ackd.agents.learner import by_place, check_learner
from ackd.envs.instance_files import Instance, over
from ackd.errors import InputError
from ackd.mdp.episode import ends


def check_instances(instances: Sequence[Instance], algorithm: str, given: Mapping[str, Any]) -> None:
    """Raises an error for instances that an agent cannot learn on together.

    Args:
        instances: at least one.
        algorithm: one of `ackd.agents.learner.LEARNERS`.
        given: default settings of the instances.

    Raises:
        InputError: if there are several instances for an agent that compares students of one setting; if they differ
            in the number of decisions; or if a learner identifies types by position and the order of types differs.
    """
    check_learner(algorithm, episodes=2, remote=False, settings=len(instances))
    first = instances[0]
    for one in instances[1:]:
        if _decisions(one, given) != _decisions(first, given):
            raise InputError(
                f"an agent learns from rollouts of whole episodes, and an episode has {_decisions(first, given)} "
                f"decisions in instance {first.name!r} and {_decisions(one, given)} in {one.name!r}: choose instances "
                "of one length with --split"
            )
    widest = max(instances, key=lambda one: len(one.knowledge))
    for one in instances:
        if by_place(algorithm) and one.knowledge != widest.knowledge[: len(one.knowledge)]:
            raise InputError(
                f"{algorithm} knows knowledge types by their places, which are {', '.join(widest.knowledge)} in "
                f"instance {widest.name!r} and {', '.join(one.knowledge)} in {one.name!r}: name them in one order, "
                "those that only some have last, or take an agent over sets (ppo, sac)"
            )


def _decisions(instance: Instance, given: Mapping[str, Any]) -> int:
    """The number of decisions in an episode of an instance."""
    setting = over(given, instance.setting)
    if setting.get("epochs") is None:
        return len(ends(setting["steps"], max(setting["decision_interval"], 1), setting.get("decisions")))
    if setting.get("decisions") is None:
        raise InputError(
            f"instance {instance.name!r} has epochs and an action for each phase, whose number nobody knows yet: give "
            "it steps, or decisions"
        )
    return int(setting["decisions"])
