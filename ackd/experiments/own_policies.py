"""Policies given as objects: functions of the episode, and objects that decide from observations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from ackd.agents.policy import Observations, State
from ackd.envs.distillation import DistillationEnv
from ackd.errors import InputError
from ackd.mdp.action_spaces import DOUBLINGS
from ackd.mdp.episode import Episode
from ackd.types import LABELS, Selection

LEAST, MOST = 2.0 ** (0.5 - DOUBLINGS), 2.0**DOUBLINGS  # range of nonzero weights
HINT = "predict(observation, state=None, episode_start=None, deterministic=False)"


class ByEpisode:
    """A policy that is a function of the episode so far.

    Args:
        name: name of the policy.
        rule: function from the episode to the next selection.
        env: the environment, with the action space `weights`.
    """

    def __init__(self, name: str, rule: Callable[[Episode], Selection], env: DistillationEnv) -> None:
        self.name, self.rule, self.env = name, rule, env

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Returns the function's selection as an action.

        Raises:
            InputError: if the function does not return a `Selection`, or returns one that is not possible here.
        """
        episode = self.env.episode
        assert episode is not None
        selection = self.rule(episode)
        check_selection(self.name, selection, self.env.knowledge)
        return self.env.choice.action(selection), state


class Predicting:
    """A policy that uses an object with the `predict` method of stable-baselines3.

    Args:
        name: name of the policy.
        given: the object.

    Raises:
        InputError: if its `predict` has another signature than in stable-baselines3.
    """

    def __init__(self, name: str, given: Any) -> None:
        self.name, self.given = name, given
        if isinstance(given, type):
            raise InputError(f"the policy {name} is a class: hand over an object of it, {given.__name__}()")
        try:
            with suppress(ValueError):  # compiled code has no signature
                inspect.signature(given.predict).bind({}, None, deterministic=True)
        except TypeError as error:
            raise InputError(
                f"the predict of the policy {name} cannot be called ({error}): write it as {HINT}"
            ) from error

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Returns the object's action and state.

        Raises:
            InputError: if the object does not return an action and a state.
        """
        answer = self.given.predict(observation, state, deterministic=deterministic)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise InputError(
                f"the predict of the policy {self.name} answers a {type(answer).__name__}: let it answer an action and "
                "a state, which may be None"
            )
        return answer


def check_selection(name: str, selection: object, knowledge: Sequence[str]) -> None:
    """Checks a selection.

    Raises:
        InputError: if it is not a `Selection`, has types that are not in `knowledge`, or weights out of range.
    """
    if not isinstance(selection, Selection):
        raise InputError(
            f"the policy {name} answers a {type(selection).__name__}: let it answer an ackd.Selection for each episode"
        )
    if not set(selection.weights) <= set(knowledge):
        raise InputError(
            f"the selection {name} has the knowledge types {', '.join(selection.weights)}, and here are "
            f"{', '.join(knowledge)}: name them with knowledge="
        )
    for term, weight in {LABELS: selection.labels, **selection.weights}.items():
        if weight and not LEAST <= weight <= MOST:
            reach = f"{LEAST:.3g} to {MOST:g}"
            raise InputError(f"the policy {name} gives {term} the weight {weight:g}: give 0, or a number from {reach}")
