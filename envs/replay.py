"""Records of episodes, and checks that replaying them earns the recorded rewards."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ackd.envs.checks import check_action
from ackd.errors import InputError
from ackd.mdp.action_spaces import Action
from ackd.mdp.observations import Observation


@dataclass(frozen=True)
class Record:
    """Seed, actions and claimed rewards of an episode, or of its beginning, for a replay."""

    seed: int
    actions: Sequence[Sequence[float]]
    rewards: Sequence[float]
    instance: str = ""  # only for an `InstanceEnv`
    earlier: Sequence[int] = ()  # decisions of earlier episodes with the same seed, if they share its generator


class Claim(NamedTuple):
    """A record after its checks."""

    seed: int
    actions: Sequence[Action]
    rewards: NDArray[np.float64]
    earlier: Sequence[int]

    def holds(self, decision: int, reward: float) -> bool:
        """True if the reward of a decision equals the claimed one, within rounding."""
        return math.isclose(reward, self.rewards[decision], rel_tol=1e-5, abs_tol=1e-6)


class Single(Protocol):
    """An environment that takes actions."""

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes a decision."""
        ...


def claim_of(record: Record, space: spaces.Space[Any]) -> Claim | None:
    """Checks a record; None if it has no decisions, not one reward for each, or an invalid action."""
    try:
        seed, rewards = operator.index(record.seed), np.asarray(record.rewards)
        earlier = [operator.index(decisions) for decisions in record.earlier]
        if any(np.shape(action) != (space.shape or (1,)) for action in record.actions):
            return None
        actions = [check_action(space, np.reshape(action, space.shape or ())) for action in record.actions]
    except (TypeError, ValueError, InputError):
        return None
    if min(seed, *earlier, 0) < 0 or not actions or rewards.shape != (len(actions),) or rewards.dtype.kind not in "iuf":
        return None
    return Claim(seed, actions, rewards.astype(np.float64), earlier)


def replays(env: Single, claim: Claim) -> bool:
    """True if the environment, reset as for the claim, earns the claimed reward at every decision."""
    ended = False
    for decision, action in enumerate(claim.actions):
        if ended:
            return False
        _, reward, ended, _, _ = env.step(action)
        if not claim.holds(decision, reward):
            return False
    return True


class Together(Protocol):
    """Several students that train side by side, as `CohortEnv` has them."""

    action_space: spaces.Space[Any]
    num_envs: int

    @property
    def trajectories(self) -> Sequence[Any]:
        """Each student's episode."""
        ...

    def begin(self, seeds: Sequence[int]) -> Observation:
        """Begins with a student for each seed."""
        ...

    def decide(self, actions: NDArray[Any]) -> Sequence[tuple[Observation, float, bool, dict[str, Any]]]:
        """Trains each under its action until the next decision."""
        ...


def replay_together(env: Together, records: Sequence[Record]) -> bool:
    """Trains students anew; True if they earn the rewards that their records claim.

    A record may end before the others only if its student dropped out, as after divergence.
    """
    claims = [claim for record in records if (claim := claim_of(record, env.action_space)) is not None]
    if not len(claims) == len(records) == env.num_envs:
        return False
    env.begin([claim.seed for claim in claims])
    for decision in range(max(len(claim.actions) for claim in claims)):
        out = [trajectory.over for trajectory in env.trajectories]
        if any(gone == (decision < len(claim.actions)) for gone, claim in zip(out, claims, strict=True)):
            return False
        actions = np.stack([claim.actions[min(decision, len(claim.actions) - 1)] for claim in claims])
        for claim, gone, (_, reward, _, _) in zip(claims, out, env.decide(actions), strict=True):
            if not (gone or claim.holds(decision, reward)):
                return False
    return True
