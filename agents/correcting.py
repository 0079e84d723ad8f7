"""Learns a schedule first and its corrections afterwards, with one budget of students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor

from ackd.agents.cem import Cem
from ackd.agents.continuing import Continuing
from ackd.agents.learned import batch_of
from ackd.agents.open_loop import MEAN
from ackd.agents.policy import Observations, Policy
from ackd.agents.residual import ResidualPolicy
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.sb3_curves import draw
from ackd.agents.schedule import Schedule, by_family
from ackd.errors import InputError
from ackd.mdp.action_spaces import DOUBLINGS
from ackd.runs.curves import Curves

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

SEARCH = 0.75  # share of the students that search, if no schedule is given


@dataclass(frozen=True)
class Plan:
    """The division of the rounds; in each round every environment trains a student.

    Args:
        searching: rounds of the search for a schedule.
        rollouts: number of PPO's rollouts; PPO never stops within one.
        rollout: rounds in each rollout.
        checking: rounds of the comparison at the end.
    """

    searching: int
    rollouts: int
    rollout: int
    checking: int

    @property
    def rounds(self) -> int:
        """The total number of rounds."""
        return self.searching + self.rollouts * self.rollout + self.checking


def planned(rounds: int, students: int, settings: int, *, search: bool) -> Plan:
    """Divides rounds of students; rounds that do not fill a rollout join the search or are left out."""
    searching = 0 if not search else rounds if rounds < LEAST_ROUNDS else max(round(SEARCH * rounds), 1)
    wanted = min(settings, MOST_CHECKS) if students >= LEAST_CHECKED else 0
    checking = min(wanted, max(rounds - searching - 1, 0))
    correcting = rounds - searching - checking
    rollouts = min(max(correcting // -(-LEAST_STUDENTS // students), 1), correcting)
    rollout = correcting // rollouts if rollouts else 1
    left = correcting - rollouts * rollout if search else 0
    return Plan(searching + left, rollouts, rollout, checking)


class Correcting:
    """Learns a schedule by `Cem`, then corrections of it by PPO, then keeps the better of both.

    In the last rounds some students follow the schedule alone, some its likeliest corrections and some drawn ones, all
    on the same batches. The corrections are kept only if the likeliest ones earned more than the schedule alone.
    Credit is the full return: not discounted (gamma 1) and not bootstrapped (lambda 1). PPO is stable-baselines3's.

    Args:
        env: the students; its action space is `Box(0, 1)`, as `ackd.mdp.action_spaces.Weights`.
        decisions: number of decisions in an episode.
        episodes: students in all.
        settings: number of settings.
        start: a schedule to begin from, instead of searching for one.
        seed: seed of weights and draws; it also seeds the environments.
        curves: where the search and PPO draw their logs.

    Raises:
        InputError: if the action space is of another kind.

    References:
        Schulman et al., Proximal Policy Optimization Algorithms, 2017, https://arxiv.org/abs/1707.06347
        Silver et al., Residual Policy Learning, 2018, https://arxiv.org/abs/1812.06298
    """

    def __init__(
        self,
        env: VecEnv,
        *,
        decisions: int,
        episodes: int,
        settings: int = 1,
        start: Schedule | None = None,
        seed: int = 0,
        curves: Curves | None = None,
    ) -> None:
        self.env = env = Continuing(env)
        self.decisions, self.seed, self._curves = decisions, seed, curves
        self.mean: list[list[float]] = []  # [decisions, families] log2 of the weights that it gave in the last round
        self.checked: dict[str, float] = {}  # mean return of each kind of student in the last rounds
        self._plan = plan = planned(max(episodes // env.num_envs, 1), env.num_envs, settings, search=start is None)
        self._search = Cem(
            env,
            decisions=decisions,
            episodes=plan.searching * env.num_envs,
            settings=settings,
            start=start,
            seed=seed,
            curves=curves,
        )
        self._agent = self._ppo(self._search.actor, seed)

    def _ppo(self, schedule: Schedule, seed: int) -> PPO:
        rollout = self.decisions * self._plan.rollout
        agent = PPO(
            ResidualPolicy,
            self.env,
            n_steps=rollout,
            batch_size=rollout * self.env.num_envs,
            n_epochs=8,
            learning_rate=3e-3,
            gamma=1.0,
            gae_lambda=1.0,
            ent_coef=0.0,
            seed=seed,
            device="cpu",
            policy_kwargs={"values": schedule.values.tolist()},
        )
        draw(agent, self._curves)
        return agent

    @property
    def policy(self) -> Policy:
        """The PPO agent, which has the `predict` of a policy."""
        return cast(Policy, self._agent)

    @property
    def actor(self) -> ResidualNetwork:
        """The network of the schedule and its corrections."""
        return cast(ResidualPolicy, self._agent.policy).network

    @property
    def flops(self) -> float:
        """Floating-point operations of a decision and its part in learning: a pass to act, and eight to learn."""
        space = self.env.action_space
        assert space.shape is not None
        return (1 + 3 * self._agent.n_epochs) * self.actor.flops(space.shape[0])

    @property
    def metrics(self) -> dict[str, Any]:
        """The results of the last rounds, for a policy's card."""
        return {"checked": self.checked, **({MEAN: self.mean} if self.mean else {})}

    def learn(self, decisions: int) -> None:
        """Trains students for `decisions` decisions, counted over all environments."""
        each = self.decisions * self.env.num_envs
        plan = self._plan
        if decisions < plan.rounds * each:
            raise InputError(f"{decisions} decisions are less than the {plan.rounds * each} that were planned")
        if plan.searching:
            self._search.learn(plan.searching * each)
            self._agent = self._ppo(self._search.actor, self.seed)
        if plan.rollouts:
            self._agent.learn(plan.rollouts * plan.rollout * each, log_interval=1)
        if plan.checking:
            self._check()

    def _check(self) -> None:
        """Compares the schedule, the likeliest corrections and drawn ones, a third of the students each."""
        plain, network = self.actor.schedule, self.actor
        kinds = np.arange(self.env.num_envs) % 3
        earned: list[np.ndarray[Any, Any]] = []
        logs: list[list[Tensor]] = [[] for _ in range(self.decisions)]
        generator = torch.Generator().manual_seed(self.seed)
        observation = self.env.reset()
        for _ in range(self._plan.checking):
            total = np.zeros(self.env.num_envs)
            for decision in range(self.decisions):
                batch = batch_of(cast(Observations, observation))
                with torch.no_grad():
                    acts = (
                        plain.act(batch, deterministic=True),
                        network.act(batch, deterministic=True),
                        network.act(batch, False, generator),
                    )
                logs[decision].append(by_family(2 * DOUBLINGS * acts[1] - DOUBLINGS, batch))
                actions = np.stack([acts[kind][i].numpy() for i, kind in enumerate(kinds)])
                observation, rewards, _, _ = self.env.step(actions)
                total += rewards
            earned.append(total)
        means = [float(np.mean([row[kinds == kind] for row in earned])) for kind in range(3)]
        self.checked = dict(zip(("schedule", "corrected", "drawn"), means, strict=True))
        self.mean = torch.stack([torch.cat(each).nanmean(0).nan_to_num() for each in logs]).tolist()
        if not means[1] > means[0]:
            network.begin()
            self.mean = []


LEAST_ROUNDS = 6  # with fewer rounds, all of them search
LEAST_STUDENTS = 8  # students in a rollout, if as many are left
LEAST_CHECKED = 6  # students side by side, so that there are two of each kind
MOST_CHECKS = 4  # rounds of the comparison, if there are several settings
