"""All learners that train over episodes, with one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, Protocol, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from ackd.agents import actor_critic, online
from ackd.agents.bandits import Bandit
from ackd.agents.best_schedule import find_optuna
from ackd.agents.cem import Cem
from ackd.agents.correcting import Correcting
from ackd.agents.evolving import Pbt
from ackd.agents.ksm import Ksm, Settings, check_settings
from ackd.agents.learned import Actor
from ackd.agents.named_bandits import BANDITS, bandit
from ackd.agents.policy import Policy
from ackd.agents.sb3_curves import draw
from ackd.agents.searching import BestSchedule, in_one_setting
from ackd.errors import InputError, unknown
from ackd.presets import read
from ackd.runs.curves import Curves

SCHEDULED: Mapping[str, Callable[..., Cem | Correcting | BestSchedule | Pbt]] = {
    "residual": Correcting,
    "cem": Cem,
    "probe-rule": partial(Cem, guarded=True),
    "best-schedule": BestSchedule,
    "pbt": Pbt,
}
COMPARING = ("best-schedule", "pbt")  # they compare students, which need one process and setting
LEARNERS = (*SCHEDULED, *actor_critic.AGENTS, "ksm", *BANDITS)


class Learner(Protocol):
    """A policy in training."""

    @property
    def policy(self) -> Policy:
        """The policy at present, at any time of the training."""
        ...

    def learn(self, decisions: int) -> None:
        """Makes `decisions` decisions, counted over all environments, and learns from them."""
        ...

    @property
    def actor(self) -> Actor:
        """The learned network, which the store can save."""
        ...

    @property
    def flops(self) -> float:
        """Floating-point operations of a decision and its share of the learning, as far as they are known."""
        ...


class FromStableBaselines:
    """A learner of stable-baselines3."""

    def __init__(self, agent: BaseAlgorithm) -> None:
        self.agent = agent

    @property
    def policy(self) -> Policy:
        """The agent, which has the `predict` of a policy."""
        return cast(Policy, self.agent)

    def learn(self, decisions: int) -> None:
        """Calls the agent's own `learn`."""
        self.agent.learn(decisions, log_interval=actor_critic.LOG_INTERVAL)

    @property
    def actor(self) -> Actor:
        """The policy's network."""
        return cast(Actor, cast(Any, self.agent.policy).network)

    @property
    def flops(self) -> float:
        """Floating-point operations of a decision, by `flops_per_decision`."""
        return actor_critic.flops_per_decision(self.agent)


class FromOnline:
    """An `OnlinePolicy` in its environments; its few small products are not counted as FLOPs."""

    flops = 0.0

    def __init__(self, policy: Ksm | Bandit, env: VecEnv) -> None:
        self.policy, self.env = policy, env

    def learn(self, decisions: int) -> None:
        """Lets the policy act and learn from the results."""
        online.learn(self.policy, self.env, decisions)

    @property
    def actor(self) -> Actor:
        """The learned network of the policy."""
        return self.policy.network


def settings_of(name: str, options: Mapping[str, Any]) -> Settings | None:
    """Parses a learner's settings from their text; None for a learner without settings.

    Raises:
        InputError: if the learner has no such setting, or a value cannot be read.
    """
    if name != "ksm":
        if options:
            raise InputError(f"the agent {name} has no option {', '.join(options)}: only ksm has options")
        return None
    defaults = {one.name: one.default for one in fields(Settings)}
    for option in options:
        if option not in defaults:
            raise unknown("setting of ksm", option, defaults)
    settings = Settings(**{option: read(option, value, defaults[option]) for option, value in options.items()})
    check_settings(settings)
    return settings


def choice_of(name: str, settings: Settings | None = None) -> str:
    """The action space of a learner; bandits and `ksm` do not weight the labels.

    Raises:
        InputError: if there is no learner with this name.
    """
    if name not in LEARNERS:
        raise unknown("agent", name, LEARNERS)
    if name in actor_critic.AGENTS:
        return actor_critic.choice_of(name)
    if name in SCHEDULED:
        return "weights"
    return "type-shares" if name == "ksm" and not (settings and settings.hard) else "type-subset"


def by_return(name: str) -> bool:
    """Whether a learner uses only the return of an episode, so that only its end must be measured."""
    return name in SCHEDULED and name != "pbt"


def side_by_side(name: str, students: int, episodes: int) -> int:
    """The number of students side by side; for `pbt` all of them, since they are one population."""
    return episodes if name == "pbt" else students


def check_learner(name: str, *, episodes: int, remote: bool, settings: int = 1) -> None:
    """Rejects a training that the learner cannot do, before it begins.

    Args:
        name: one of `LEARNERS`.
        episodes: students in all.
        remote: whether students train in workers.
        settings: number of settings.

    Raises:
        InputError: if the learner cannot do it.
    """
    if name in COMPARING and settings > 1:
        raise in_one_setting(name, settings)
    if name in COMPARING and remote:
        raise InputError(
            f"{name} compares students side by side, which workers keep apart: leave --workers and --backend away"
        )
    if name == "best-schedule":
        find_optuna()
    if name == "pbt" and episodes < 2:
        raise InputError(f"a population of {episodes} has nobody to take over from: give --episodes 2 or more to pbt")


def by_place(name: str) -> bool:
    """Whether a learner identifies a knowledge type by its position in the action."""
    return name == "ksm" or name in BANDITS


def observes_cls(name: str) -> bool:
    """Whether a learner reads the first-token outputs of student and teacher."""
    return name == "ksm"


def make_learner(
    name: str,
    env: VecEnv,
    *,
    types: int,
    decisions: int,
    episodes: int,
    seed: int,
    curves: Curves | None = None,
    settings: Settings | None = None,
    instances: int = 1,
) -> Learner:
    """Makes a learner with the defaults of ackd.

    Args:
        name: one of `LEARNERS`.
        env: environments in which it learns.
        types: number of knowledge types.
        decisions: number of decisions in an episode.
        episodes: total number of episodes.
        seed: seed of weights and draws; it also seeds the environments.
        curves: where it draws its log, if it has one.
        settings: settings of ksm; the defaults if None.
        instances: number of settings, which come in turn.

    Raises:
        InputError: if the name is unknown or the environments do not fit the learner.
    """
    choice_of(name)
    if name in SCHEDULED:
        return SCHEDULED[name](
            env,
            decisions=decisions,
            episodes=episodes,
            settings=instances,
            seed=seed,
            curves=curves,
        )
    if name in actor_critic.AGENTS:
        agent = actor_critic.make_agent(name, env, seed=seed, n_steps=decisions, episodes=episodes)
        draw(agent, curves)
        return FromStableBaselines(agent)
    env.seed(seed)
    if name == "ksm":
        return FromOnline(Ksm(env.observation_space, settings, seed=seed), env)
    return FromOnline(bandit(name, types, seed=seed, decisions=decisions), env)
