"""Everything that can be trained over episodes, under one name and three verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, Protocol, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from ackd.agents import actor_critic, online
from ackd.agents.arms import PerType, Subsets
from ackd.agents.bandits import Bandit, Exp3, Thompson, Ucb
from ackd.agents.best_schedule import find_optuna
from ackd.agents.cem import Cem
from ackd.agents.correcting import Correcting
from ackd.agents.evolving import Pbt
from ackd.agents.ksm import Ksm, Settings, check_settings
from ackd.agents.learned import Actor
from ackd.agents.policy import Policy
from ackd.agents.sb3_curves import draw
from ackd.agents.searching import BestSchedule, in_one_setting
from ackd.errors import InputError, unknown
from ackd.presets import read
from ackd.runs.curves import Curves

BANDITS = {"ucb": Ucb, "thompson": Thompson, "exp3": Exp3}
SCHEDULED: Mapping[str, Callable[..., Cem | Correcting | BestSchedule | Pbt]] = {
    "residual": Correcting,
    "cem": Cem,
    "probe-rule": partial(Cem, guarded=True),
    "best-schedule": BestSchedule,
    "pbt": Pbt,
}
COMPARING = ("best-schedule", "pbt")  # students with each other, so that all have to be at one place in one setting
LEARNERS = (*SCHEDULED, *actor_critic.AGENTS, "ksm", *BANDITS)
MAX_SUBSETS = 4  # types, beyond which a bandit has an arm a type instead of an arm a subset


class Learner(Protocol):
    """A policy in training."""

    @property
    def policy(self) -> Policy:
        """What acts, at any time of its training."""
        ...

    def learn(self, decisions: int) -> None:
        """Decides so often, counted over all environments, and learns from it."""
        ...

    @property
    def actor(self) -> Actor:
        """What it has learned, as the store saves it."""
        ...

    @property
    def flops(self) -> float:
        """Floating-point operations of a decision and its part in learning, as far as they are known."""
        ...


class FromStableBaselines:
    """A learner of stable-baselines3."""

    def __init__(self, agent: BaseAlgorithm) -> None:
        self.agent = agent

    @property
    def policy(self) -> Policy:
        """The agent, whose `predict` all policies have."""
        return cast(Policy, self.agent)

    def learn(self, decisions: int) -> None:
        """As the agent does."""
        self.agent.learn(decisions, log_interval=actor_critic.LOG_INTERVAL)

    @property
    def actor(self) -> Actor:
        """The policy's network."""
        return cast(Actor, cast(Any, self.agent.policy).network)

    @property
    def flops(self) -> float:
        """As `flops_per_decision` counts them."""
        return actor_critic.flops_per_decision(self.agent)


class FromOnline:
    """An `OnlinePolicy` in its environments; what it computes is no more than a few small products, and not counted."""

    flops = 0.0

    def __init__(self, policy: Ksm | Bandit, env: VecEnv) -> None:
        self.policy, self.env = policy, env

    def learn(self, decisions: int) -> None:
        """Acts, and tells the policy what came of it."""
        online.learn(self.policy, self.env, decisions)

    @property
    def actor(self) -> Actor:
        """What the policy has learned."""
        return self.policy.network


def settings_of(name: str, options: Mapping[str, Any]) -> Settings | None:
    """A learner's settings from values as they were written; None of one that has none.

    Raises:
        InputError: if the learner does not have one of them, or its value cannot be read.
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
    """The action space that a learner acts in; bandits and `ksm` leave the labels alone.

    Raises:
        InputError: if there is no learner of that name.
    """
    if name not in LEARNERS:
        raise unknown("agent", name, LEARNERS)
    if name in actor_critic.AGENTS:
        return actor_critic.choice_of(name)
    if name in SCHEDULED:
        return "weights"
    return "type-shares" if name == "ksm" and not (settings and settings.hard) else "type-subset"


def by_return(name: str) -> bool:
    """Whether a learner goes by what an episode earned as a whole, so that its end alone has to be measured."""
    return name in SCHEDULED and name != "pbt"


def side_by_side(name: str, students: int, episodes: int) -> int:
    """How many train side by side, where so many may: for `pbt` all of them, which are one population."""
    return episodes if name == "pbt" else students


def check_learner(name: str, *, episodes: int, remote: bool, settings: int = 1) -> None:
    """Refuses what a learner cannot do, before anything is begun.

    Args:
        name: one of `LEARNERS`.
        episodes: students in all.
        remote: whether students train in workers.
        settings: how many there are.

    Raises:
        InputError: if it cannot.
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
    """Whether a learner knows a knowledge type by its place in the action."""
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
    """A learner with this project's defaults.

    Args:
        name: one of `LEARNERS`.
        env: where it learns.
        types: how many knowledge types there are.
        decisions: in an episode.
        episodes: how many there will be in all.
        seed: of weights and draws; it also seeds the environments.
        curves: where it draws what it logs, where it logs anything.
        settings: of ksm; its own if None.
        instances: how many settings there are, which come in turn.

    Raises:
        InputError: if the name is not known or the environment is not one for it.
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


def bandit(name: str, types: int, *, seed: int, decisions: int = 1) -> Bandit:
    """A bandit over subsets where these are few, and over each type by itself otherwise.

    Args:
        name: ucb | thompson | exp3.
        types: how many knowledge types there are.
        seed: of its draws.
        decisions: in an episode, where it learns over several: each has arms of its own then, which earn all that
            comes after them. In a single run, 1: what a decision earns is all that is known of it in time.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in BANDITS:
        raise unknown("bandit", name, BANDITS)
    arms = Subsets(types) if types <= MAX_SUBSETS else PerType(types)
    rule = Thompson(width=3.0) if name == "thompson" and isinstance(arms, PerType) else BANDITS[name]()
    return Bandit(arms, rule, stages=decisions, credit="return" if decisions > 1 else "decision", seed=seed)
