"""What every policy can do, be it a rule, an agent in training, or one read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Observations = dict[str, NDArray[Any]]
State = tuple[NDArray[Any], ...]


class Policy(Protocol):
    """Decides from what `ackd.mdp.observations` observes.

    The one method is stable-baselines3's, so its `evaluate_policy` runs rules and learned policies alike.
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
            state: what the last call answered; `None` at the start.
            episode_start: [n], whether an episode begins here.
            deterministic: the likeliest action rather than a draw; rules that are random by nature draw all the same.

        Returns:
            Actions [K_max] or [n, K_max], and the state for the next call.
        """
        ...


@dataclass(frozen=True)
class Transition:
    """One decision of n environments and what came of it."""

    observation: Observations  # before it, each [n, ...]
    action: NDArray[Any]  # [n, K_max]
    reward: NDArray[np.float32]  # [n]
    following: Observations  # the observation after it; where an episode ended, its last one
    over: NDArray[np.bool_]  # [n], whether the episode ended with it


class OnlinePolicy(Policy, Protocol):
    """A policy that learns from every decision that it is told of: bandits, `ksm`, a policy under refinement."""

    def update(self, transition: Transition) -> None:
        """Learns from one decision of each environment; when, is its own affair."""
        ...
