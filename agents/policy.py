"""The interface of every policy: a rule, an agent in training, or a policy read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Observations = dict[str, NDArray[Any]]
State = tuple[NDArray[Any], ...]


class Policy(Protocol):
    """Decides from the observations of `ackd.mdp.observations`.

    Its only method is that of stable-baselines3, so `evaluate_policy` runs rules and learned policies alike.
    """

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Actions and the next state.

        Args:
            observation: of one environment (mask [K_max]) or of n (mask [n, K_max]).
            state: the state that the last call returned; `None` at the start.
            episode_start: [n], whether an episode begins here.
            deterministic: give the likeliest action instead of a draw; random rules draw nevertheless.

        Returns:
            Actions [K_max] or [n, K_max], and the state for the next call.
        """
        ...


@dataclass(frozen=True)
class Transition:
    """One decision of n environments and its results."""

    observation: Observations  # before it, each [n, ...]
    action: NDArray[Any]  # [n, K_max]
    reward: NDArray[np.float32]  # [n]
    following: Observations  # the observation after it; the last one of an episode that ended
    over: NDArray[np.bool_]  # [n], whether the episode ended with it


class OnlinePolicy(Policy, Protocol):
    """A policy that learns from every decision in `update`: bandits, `ksm`, a policy under refinement."""

    def update(self, transition: Transition) -> None:
        """Receives one decision of each environment; the policy may learn now or later."""
        ...
