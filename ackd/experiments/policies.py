"""What can be evaluated under a name: a policy, and what it asks of its environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gymnasium import spaces

from ackd.agents.balancing import BALANCERS
from ackd.agents.card import check_name
from ackd.agents.learned import LearnedPolicy
from ackd.agents.learner import BANDITS, bandit
from ackd.agents.named import NAMED, named
from ackd.agents.open_loop import guarded, replayed
from ackd.agents.policy import OnlinePolicy, Policy
from ackd.agents.refine import OnlineFinetuning
from ackd.agents.rules import Staged
from ackd.agents.search import Lookahead
from ackd.agents.store import load, pinned
from ackd.building.method import pairs
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import distill
from ackd.errors import InputError
from ackd.experiments.episodes import folder_of
from ackd.experiments.own_policies import ByEpisode, Predicting, check_selection
from ackd.knowledge import NAMES
from ackd.presets import parse
from ackd.types import LABELS, Selection

COMPARING = ("gradnorm", "gradient-similarity")
PRESET, REFINE = "preset:", ":refine"
SEARCHED, AHEAD = "best-static", "lookahead"
DERIVED = {"replay": replayed, "probe-rule": guarded}  # of a learned policy, as in replay:default
TAKEN = (*NAMED, *NAMES, *BANDITS, *DERIVED, SEARCHED, AHEAD)  # names that say what a policy does
BY_PLACE = ("bandit", "ksm", "ksm-bits")  # kinds that know a type by its place in the action, and no other types
ONLINE_SHARE = 0.2  # of the reward split, which is measured where a policy is refined
ONLINE_PRICE = 0.08  # of what learning from the labels alone takes, at most, for measuring it


@dataclass(frozen=True)
class Arm:
    """A policy by its name.

    Args:
        name: as it was given.
        make: the policy for one episode in an environment, from a seed.
        settings: of the environment that it acts in, besides those of the run.
        method: a published one, as `ackd.prepare` takes it in the place of the run's options; none if empty.
        online: learns while its student trains.
        forks: looks ahead in copies of the environment, which a replay log cannot answer for.
        learned: what was read from a file, if anything was.
    """

    name: str
    make: Callable[[DistillationEnv, int], Policy]
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    online: bool = False
    forks: bool = False
    learned: LearnedPolicy | None = None

    def learner(self, policy: Policy) -> OnlinePolicy | None:
        """The policy, where it learns in the run."""
        return policy if self.online else None  # type: ignore[return-value]  # what `make` makes of an online arm

    def within(self, env: DistillationEnv) -> DistillationEnv:
        """The environment that it acts in, made from that of a run."""
        env = env.variant(**self.settings)
        return env.variant(reward_every=online_phase(env)) if self.online and self.learned is not None else env


def called(text: str) -> tuple[str, str]:
    """The name and the policy in `NAME=POLICY`; where there is no name, the policy is called what it is.

    Raises:
        InputError: if the name cannot be one, or says already what a policy does.
    """
    name, sign, policy = text.partition("=")
    if not sign or any(mark in name for mark in "/:+,"):  # in a path, an option of a preset, or a rule
        return text, text
    check_name(name)
    if name in TAKEN:
        raise InputError(f"{text!r} calls a policy {name}, which is what another does: choose another name")
    if not policy:
        raise InputError(f"{text!r} names no policy: write NAME=POLICY")
    return name, policy


def arm(name: str, knowledge: Sequence[str]) -> Arm:
    """A rule, weights of types, loss balancing, a saved policy (its folder, its run, its name in the store or on the
    hub), one of these with `:refine`, `replay:` or `probe-rule:` before one, a bandit that learns in the run, or
    `lookahead`.

    Raises:
        InputError: if it is none of them.
    """
    name = pinned(name)
    if name == AHEAD:
        return Arm(name, lambda env, seed: Lookahead(env), {"reward_every": 1, "decisions": None}, forks=True)
    if name in BANDITS:
        made = lambda env, seed: bandit(name, len(env.knowledge), seed=seed)  # noqa: E731 - as the others
        return Arm(name, made, {"reward_every": 1, "decisions": None, "choice": "type-subset"}, online=True)
    derived, colon, source = name.partition(":")
    if derived in DERIVED:
        return _derived(derived, source if colon else "default", knowledge, name)
    refined = name.endswith(REFINE)
    source = name.removesuffix(REFINE)
    folder = folder_of(source, knowledge)
    if folder is None:
        if refined:
            raise InputError(f"{source} is a rule, which has nothing to refine: name a learned policy")
        asked: dict[str, Any] = {"choice": getattr(named(source, (LABELS, *knowledge)), "choice", "subset")}
        if source in BALANCERS:  # as often as can be, for the originals do it in every step
            asked["decisions"] = None
        return Arm(name, lambda env, seed: _named(source, env, seed), asked)
    policy = load(folder)
    if policy.card.kind in BY_PLACE and tuple(policy.card.knowledge) != tuple(knowledge):
        raise InputError(
            f"the policy {source} knows its knowledge types by their places, {', '.join(policy.card.knowledge)}, and "
            f"here they are {', '.join(knowledge)}: name those with --knowledge, or take a policy over sets (ppo, sac)"
        )
    settings: dict[str, Any] = {"choice": policy.card.choice, "observe_cls": policy.card.kind.startswith("ksm")}
    if not refined:
        return Arm(name, lambda env, seed: load(folder, k_max=env.signals.k_max, seed=seed), settings, learned=policy)
    return _refining(name, lambda k_max: load(folder, k_max=k_max), policy, settings)


def name_of(policy: object) -> str:
    """What a policy that is handed over is called: by its card, its own name, or its kind."""
    named = policy.card if isinstance(policy, LearnedPolicy) else policy
    function = getattr(policy, "__name__", "")
    own = function if function.isidentifier() and not isinstance(policy, type) else type(policy).__name__.lower()
    return str(getattr(named, "name", "") or own)


def of_object(name: str, given: object, knowledge: Sequence[str]) -> Arm:
    """A policy that is handed over: a `Selection`, a function from the `Episode` so far to one, an agent of
    stable-baselines3, or whatever has its `predict`.

    Raises:
        InputError: if it is none of them, or decides in levels, which only its environment knows; or selects what is
            not among the types of `knowledge`.
    """
    if isinstance(given, Selection):
        check_selection(name, given, knowledge)
        return Arm(name, lambda env, seed: ByEpisode(name, lambda episode: given, env), {"choice": "weights"})
    if isinstance(given, LearnedPolicy):
        card = given.card
        settings: dict[str, Any] = {"choice": card.choice, "observe_cls": card.kind.startswith("ksm")}
        return Arm(name, lambda env, seed: given, settings, learned=given)
    if not callable(getattr(given, "predict", None)):
        if callable(given) and not isinstance(given, type):
            return Arm(name, lambda env, seed: ByEpisode(name, given, env), {"choice": "weights"})
        raise InputError(
            f"the policy {name} is a {type(given).__name__}: give a name, a folder, a Selection, a function from the "
            "episode so far to one, an agent of stable-baselines3, or an object with its method predict"
        )
    own, settings = Predicting(name, given), {"choice": getattr(given, "choice", "subset")}
    if isinstance(space := getattr(given, "action_space", None), spaces.Space):
        settings["choice"] = _choice_of(name, space)
        seen = getattr(getattr(given, "observation_space", None), "spaces", {})
        settings["observe_cls"] = "student_cls" in seen
    return Arm(name, lambda env, seed: own, settings)


def _choice_of(name: str, space: spaces.Space[Any]) -> str:
    """What an agent chooses, by its action space."""
    if isinstance(space, spaces.MultiBinary):
        return "subset"
    if isinstance(space, spaces.Box):
        return "weights"
    raise InputError(
        f"the policy {name} acts in a {type(space).__name__}: train it with choice subset or weights, or hand over an "
        "object that has choice and predict"
    )


def _refining(name: str, made: Callable[[int], LearnedPolicy], policy: LearnedPolicy, settings: dict[str, Any]) -> Arm:
    """What adapts a policy, which `made` makes for an action of so many entries, within the run."""
    OnlineFinetuning(policy, phase=1)  # refuses what cannot be refined
    return Arm(
        name,
        lambda env, seed: OnlineFinetuning(made(env.signals.k_max), phase=env.timetable.reward_every or 1, seed=seed),
        settings | {"reward_every": 1, "reward_share": ONLINE_SHARE, "decisions": None},
        online=True,
        learned=policy,
    )


def online_phase(env: DistillationEnv) -> int:
    """Decisions from one measurement to the next, so that those take at most `ONLINE_PRICE`.

    A student's answer to an example takes a third of what learning from it does.
    """
    one = env.distillation
    asked = len(one.evaluator.reward_part(env.timetable.reward_share)) / 3
    return max(math.ceil(asked / (ONLINE_PRICE * env.timetable.decision_interval * one.batch_size * one.accumulate)), 1)


def _named(source: str, env: DistillationEnv, seed: int) -> Policy:
    if source in COMPARING and not env.distillation.cosines:
        raise InputError(f"{source} compares gradients, and this run does not measure them: add --gradient-cosines")
    return named(source, env.choice.names, seed=seed)


def _derived(how: str, source: str, knowledge: Sequence[str], name: str) -> Arm:
    """What is made of a saved policy."""
    source, refined = source.removesuffix(REFINE), source.endswith(REFINE)
    folder = folder_of(source, knowledge)
    if folder is None:
        raise InputError(f"{source!r} is a rule, and {how} is made of a learned policy: name one, as in {how}:default")
    policy, settings = DERIVED[how](load(folder)), {"choice": "weights"}

    def made(k_max: int) -> LearnedPolicy:
        return DERIVED[how](load(folder, k_max=k_max))

    if refined:
        return _refining(name, made, policy, settings)
    return Arm(name, lambda env, seed: made(env.signals.k_max), settings, learned=policy)


def published(name: str) -> Arm:
    """A published method, or several joined by commas, with its options: `preset:dynamickd-data:keep=0.1`.

    Raises:
        InputError: for a preset that is not known, or an option that cannot be read.
    """
    names, *options = name.removeprefix(PRESET).split(":")
    given = {"preset": names, "options": parse(names, pairs(options))}
    own = {"knowledge": (), "layer_map": None}  # whatever the policies beside it select from
    return Arm(name, lambda env, seed: Staged(env.distillation.stages), method={**given, **own})


def prepared(one: Arm, given: Mapping[str, Any]) -> DistillationEnv:
    """What a published method acts in: an environment of its own, otherwise made as `given`.

    Raises:
        InputError: if the method cannot be had with these models and data, or leaves open what is transferred when.
    """
    env = distill(**{**given, **one.method})
    if not env.distillation.stages:
        raise InputError(
            f"the preset {one.method['preset']!r} leaves open what is transferred when: let an agent learn it with "
            f"`ackd train --preset {one.method['preset']}`, and name that run"
        )
    return env


def step_flops(env: DistillationEnv) -> float:
    """FLOPs of a step that transfers everything an environment's policies can select from, of a batch of mean length.

    Shares of it are what `flops_share` says, and those of a method with other losses are of another whole.
    """
    one = env.distillation
    everything = list(one.distiller.knowledge.values())
    return one.distiller.flops(everything, one.batch_size, round(float(one.task.train.lengths.mean())), whole=True)
