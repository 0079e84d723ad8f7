"""Amortized refinement: a policy's weights are adapted inside the single run that it is used in."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.agents.learned import Actor, LearnedPolicy, batch_of
from ackd.agents.policy import Observations, State, Transition
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import MEMBER, PROGRESS, Schedule
from ackd.errors import InputError
from ackd.mdp.action_spaces import DOUBLINGS, LEAST
from ackd.mdp.observations import FAMILIES
from ackd.types import LABELS

BOUND = 1.0  # doublings that a weight may be shifted
STEP = 0.25  # of a direction; the exploring step to either side
MIN_GROUPS = 3  # needed before exploration may be stopped
OFF = -DOUBLINGS + 2 * DOUBLINGS * LEAST  # log2 of the least weight that is transferred
TYPES = [family != LABELS for family in FAMILIES]
# [directions, families]: the types' weights against the labels', then each family by itself, half as far.
DIRECTIONS = np.stack([np.where(TYPES, 1.0, -1.0), *(0.5 * np.eye(len(FAMILIES))[TYPES])])


@dataclass(frozen=True)
class Group:
    """The rewards of three phases: with a step to one side, without a step, and with a step to the other side.

    Args:
        signs: [directions], signs of the first phase's step; 0 for absent families. The last phase has the opposite.
        first: reward of the first phase.
        kept: reward of the second phase, under the frozen policy.
        last: reward of the last phase.
    """

    signs: NDArray[np.float64]
    first: float
    kept: float
    last: float

    @property
    def _size(self) -> float:
        return (abs(self.first) + abs(self.kept) + abs(self.last)) / 3 or 1.0

    @property
    def difference(self) -> float:
        """(first - last) / mean of the absolute values; groups count equally, although students slow down."""
        return (self.first - self.last) / self._size

    @property
    def advantage(self) -> float:
        """((first + last) / 2 - kept) / mean of the absolute values; a steady decline cancels."""
        return ((self.first + self.last) / 2 - self.kept) / self._size


class OnlineFinetuning:
    """A schedule of weights that is shifted within a run, as far as the run's rewards give evidence.

        log2 w_f(p) = schedule_f(p) + clip(sum_i u_i D_if, -1, 1)        u_i = sign(t_i) min(max(|t_i| - 1, 0) / 2, 1)
        t_i = sqrt((n - 1) / n) sum_j s_ij e_j / sqrt(sum_j e_j^2)       e_j = d_j - mean d

    A phase is the decisions between two measurements of the reward. Phases form groups j = 1..n of three: with u + s/4,
    with the frozen policy, and with u - s/4, where the signs s are drawn anew for each group. d is the reward of the
    first phase minus that of the last, relative to the size of all three; its mean is due to students that slow down. D
    are the directions: the types against the labels, and each family of types by itself, half as far. Without an
    effect, |t| is about 1, and the weights hardly change. Knots that are off stay off, and the others stay on.

    Exploration ends at a share of the run, because the end of a run decides most. If the exploring phases earned less
    than the frozen ones by more than a standard error, after at least `MIN_GROUPS` groups, the frozen policy decides
    for the rest of the run. Groups in which a step changed no action are ignored, for example if a gate selects the
    labels alone.

    Args:
        policy: a learned policy: a schedule, or a network that corrects one.
        phase: decisions in a phase, as the environment's `reward_every`.
        explore: share of the run in which groups begin.
        seed: seed of the signs.

    Raises:
        InputError: if the policy has no schedule of weights, or a number is out of range.

    References:
        Antithetic steps along random signs are those of Spall, Multivariate Stochastic Approximation Using a
        Simultaneous Perturbation Gradient Approximation, IEEE Transactions on Automatic Control 37, 1992,
        https://doi.org/10.1109/9.119632; the rest is ours.
    """

    def __init__(self, policy: LearnedPolicy, *, phase: int, explore: float = 0.75, seed: int = 0) -> None:
        if not isinstance(policy.network, Schedule | ResidualNetwork):
            raise InputError(
                f"only policies that give weights by a schedule can be refined, not one of {policy.card.algorithm}: "
                "use it as it is, without --refine"
            )
        if phase < 1 or not 0 <= explore <= 1:
            raise InputError(
                f"a phase has {phase} decisions, and {explore} of the run explores: give at least 1, and 0 to 1"
            )
        self.frozen, self.phase, self.explore = policy, phase, explore
        self.network = copy.deepcopy(policy.network)
        self.groups: list[Group] = []
        self.fallen_back = False
        self._shifted = LearnedPolicy(self.network, policy.card)
        self._rng = np.random.default_rng(seed)
        self._signs = np.zeros(len(DIRECTIONS))
        self._order: list[int] = []  # remaining sides of the present group; 0 is the frozen policy
        self._earned: dict[int, float] = {}
        self._changed: dict[int, bool] = {}
        self._side: int | None = None  # of the present phase; None if it does not explore
        self._rewards: list[float] = []

    @property
    def centre(self) -> NDArray[np.float64]:
        """[directions], u: the shift along each direction that the evidence supports."""
        return _evident(self.groups)

    @property
    def shift(self) -> NDArray[np.float64]:
        """[families], the present shift of the log2 weights, without exploration."""
        return np.zeros(len(FAMILIES)) if self.fallen_back else _shift(self.centre)

    def refined(self) -> Actor:
        """A copy of the policy at present, without exploration."""
        self._move(self.shift)
        return copy.deepcopy(self.network)

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], State | None]:
        """The likeliest weights; with a step to one side if the phase explores and `deterministic` is False."""
        if not self._rewards:
            self._begin(observation)
        usual, _ = self.frozen.predict(observation, deterministic=True)
        side = None if deterministic else self._side
        if self.fallen_back or side == 0:
            return usual, state
        self._move(self.shift if side is None else _shift(self.centre + side * STEP * self._signs))
        action, _ = self._shifted.predict(observation, deterministic=True)
        if side is not None:
            self._changed[side] = self._changed.get(side, False) or not np.array_equal(action, usual)
        return action, state

    def update(self, transition: Transition) -> None:
        """Stores a decision; learns if it was the last of a group.

        Raises:
            InputError: if there are several environments; only one student can be refined.
        """
        if len(transition.reward) != 1:
            raise InputError(f"refinement has one student, got decisions of {len(transition.reward)}")
        self._rewards.append(float(transition.reward[0]))
        if bool(transition.over[0]) or len(self._rewards) < self.phase:
            return
        earned, self._rewards = math.fsum(self._rewards), []
        if self._side is None:
            return
        self._earned[self._side] = earned
        if self._order:
            return
        if all(self._changed.values()) and all(map(math.isfinite, self._earned.values())):
            self.groups.append(Group(self._signs, self._earned[1], self._earned[0], self._earned[-1]))
            self.fallen_back = self._worse()

    def flops(self, types: int) -> float:
        """Floating-point operations of a decision over `types` types, of the frozen and the shifted policy."""
        return 2 * self.network.flops(types)

    def _begin(self, observation: Observations) -> None:
        """Chooses the side of the next phase; begins a new group if none is under way."""
        self._side = None
        if self.fallen_back:
            return
        batch = batch_of(observation)
        if not self._order and float(batch["globals"][0, PROGRESS]) < self.explore:
            members = batch["knowledge"].reshape(*batch["mask"].shape, -1)[..., MEMBER] * batch["mask"].unsqueeze(-1)
            there = (members.sum((0, 1)) > 0).numpy()[TYPES]
            self._signs = self._rng.choice([-1.0, 1.0], len(DIRECTIONS)) * np.array([there.any(), *there])
            self._order = [1, 0, -1]
            self._earned, self._changed = {}, {}
        if self._order:
            self._side = self._order.pop(0)

    def _move(self, shift: NDArray[np.float64]) -> None:
        """Shifts the schedule; weights that are off stay off, and the others stay on."""
        own, frozen = _schedule(self.network).values, _schedule(self.frozen.network).values
        moved = (frozen + torch.as_tensor(shift, dtype=frozen.dtype)).clamp(OFF, DOUBLINGS)
        own.copy_(torch.where(frozen < OFF, frozen, moved))

    def _worse(self) -> bool:
        """Whether exploring seems to have cost more than a standard error."""
        advantages = [group.advantage for group in self.groups]
        if len(advantages) < MIN_GROUPS:
            return False
        return statistics.fmean(advantages) < -statistics.stdev(advantages) / math.sqrt(len(advantages))


def _schedule(network: Actor) -> Schedule:
    schedule = network if isinstance(network, Schedule) else getattr(network, "schedule", None)
    assert isinstance(schedule, Schedule)  # checked in the constructor
    return schedule


def _evident(groups: list[Group]) -> NDArray[np.float64]:
    """[directions], u, from the groups so far."""
    differences = np.array([group.difference for group in groups])
    differences -= differences.mean() if groups else 0.0
    size = math.sqrt(float((differences**2).sum()))
    if size < 1e-5:  # the rounding error of float32 rewards
        return np.zeros(len(DIRECTIONS))
    t = math.sqrt(1 - 1 / len(groups)) * differences @ np.array([group.signs for group in groups]) / size
    along: NDArray[np.float64] = np.sign(t) * np.clip((np.abs(t) - 1) / 2, 0.0, 1.0)
    return along


def _shift(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """[families] doublings, from [directions]."""
    shift: NDArray[np.float64] = np.clip(along @ DIRECTIONS, -BOUND, BOUND)
    return shift
