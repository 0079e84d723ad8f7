"""Named policies for evaluation, with the environment settings that they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gymnasium import spaces

from ackd.agents.balancing import BALANCERS
from ackd.agents.card import check_name
from ackd.agents.learned import LearnedPolicy
from ackd.agents.named import NAMED, named
from ackd.agents.named_bandits import BANDITS, bandit
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
DERIVED = {"replay": replayed, "probe-rule": guarded}  # derived from a learned policy, as in replay:default
TAKEN = (*NAMED, *NAMES, *BANDITS, *DERIVED, SEARCHED, AHEAD)  # reserved names
BY_PLACE = ("bandit", "ksm", "ksm-bits")  # kinds that identify types by position
ONLINE_SHARE = 0.2  # share of the reward split to measure while a policy is refined
ONLINE_PRICE = 0.08  # most FLOPs for measuring, as a share of those for training on labels alone


@dataclass(frozen=True)
class Arm:
    """A named policy and the environment settings that it needs.

    Args:
        name: the given name.
        make: makes the policy for one episode, from an environment and a seed.
        settings: environment settings that differ from those of the run.
        method: options of a published method for `ackd.prepare`, instead of the run's options; empty if none.
        online: True if the policy learns while its student trains.
        forks: True if the policy looks ahead in copies of the environment; a replay log does not support copies.
        learned: the policy read from a file, if any.
    """

    name: str
    make: Callable[[DistillationEnv, int], Policy]
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    online: bool = False
    forks: bool = False
    learned: LearnedPolicy | None = None

    def learner(self, policy: Policy) -> OnlinePolicy | None:
        """The policy if it learns in the run, else None."""
        return policy if self.online else None  # type: ignore[return-value]  # `make` returns one if online

    def within(self, env: DistillationEnv) -> DistillationEnv:
        """The policy's environment, derived from that of the run."""
        env = env.variant(**self.settings)
        return env.variant(reward_every=online_phase(env)) if self.online and self.learned is not None else env


def called(text: str) -> tuple[str, str]:
    """Splits `NAME=POLICY`; without NAME, the policy itself is the name.

    Raises:
        InputError: if the name is invalid or reserved.
    """
    name, sign, policy = text.partition("=")
    if not sign or any(mark in name for mark in "/:+,"):  # a path, an option of a preset, or a rule
        return text, text
    check_name(name)
    if name in TAKEN:
        raise InputError(f"{text!r} calls a policy {name}, which is what another does: choose another name")
    if not policy:
        raise InputError(f"{text!r} names no policy: write NAME=POLICY")
    return name, policy


def arm(name: str, knowledge: Sequence[str]) -> Arm:
    """Returns the arm for the name of a policy.

    The name may be a rule, weights of types, loss balancing, or a saved policy (folder, run, stored name or
    hf:USER/REPO). A saved policy may have `:refine` at the end, or `replay:` or `probe-rule:` in front. The name
    may also be a bandit that learns in the run, or `lookahead`.

    Raises:
        InputError: if the name is none of these.
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
        if source in BALANCERS:  # as often as possible, because the original methods do it in every step
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
    """The name of a policy object: from its card, its own name, or its type."""
    named = policy.card if isinstance(policy, LearnedPolicy) else policy
    function = getattr(policy, "__name__", "")
    own = function if function.isidentifier() and not isinstance(policy, type) else type(policy).__name__.lower()
    return str(getattr(named, "name", "") or own)


def of_object(name: str, given: object, knowledge: Sequence[str]) -> Arm:
    """Returns the arm for a policy object.

    The object may be a `Selection`, a function from the `Episode` so far to a `Selection`, an agent of
    stable-baselines3, or an object with the same `predict`.

    Raises:
        InputError: if it is none of these; if its actions are levels, because only its environment can convert them;
            or if it selects types that are not in `knowledge`.
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
    """The choice that belongs to an agent's action space."""
    if isinstance(space, spaces.MultiBinary):
        return "subset"
    if isinstance(space, spaces.Box):
        return "weights"
    raise InputError(
        f"the policy {name} acts in a {type(space).__name__}: train it with choice subset or weights, or hand over an "
        "object that has choice and predict"
    )


def _refining(name: str, made: Callable[[int], LearnedPolicy], policy: LearnedPolicy, settings: dict[str, Any]) -> Arm:
    """The arm that adapts a policy within the run; `made` makes the policy for an action size."""
    OnlineFinetuning(policy, phase=1)  # raises an error if it cannot be refined
    return Arm(
        name,
        lambda env, seed: OnlineFinetuning(made(env.signals.k_max), phase=env.timetable.reward_every or 1, seed=seed),
        settings | {"reward_every": 1, "reward_share": ONLINE_SHARE, "decisions": None},
        online=True,
        learned=policy,
    )


def online_phase(env: DistillationEnv) -> int:
    """Decisions between two measurements, so that measuring costs at most `ONLINE_PRICE`.

    A forward pass costs a third of a training step.
    """
    one = env.distillation
    asked = len(one.evaluator.reward_part(env.timetable.reward_share)) / 3
    return max(math.ceil(asked / (ONLINE_PRICE * env.timetable.decision_interval * one.batch_size * one.accumulate)), 1)


def _named(source: str, env: DistillationEnv, seed: int) -> Policy:
    if source in COMPARING and not env.distillation.cosines:
        raise InputError(f"{source} compares gradients, and this run does not measure them: add --gradient-cosines")
    return named(source, env.choice.names, seed=seed)


def _derived(how: str, source: str, knowledge: Sequence[str], name: str) -> Arm:
    """The arm for a policy derived from a saved one."""
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
    """The arm of a published method, or of several joined by commas: `preset:dynamickd-data:keep=0.1`.

    Raises:
        InputError: for an unknown preset, or an option that cannot be read.
    """
    names, *options = name.removeprefix(PRESET).split(":")
    given = {"preset": names, "options": parse(names, pairs(options))}
    own = {"knowledge": (), "layer_map": None}  # independent of the other policies' knowledge types
    return Arm(name, lambda env, seed: Staged(env.distillation.stages), method={**given, **own})


def prepared(one: Arm, given: Mapping[str, Any]) -> DistillationEnv:
    """Makes the environment of a published method, with the other settings in `given`.

    Raises:
        InputError: if the method does not support these models and data, or has no stages of its own.
    """
    env = distill(**{**given, **one.method})
    if not env.distillation.stages:
        raise InputError(
            f"the preset {one.method['preset']!r} leaves open what is transferred when: let an agent learn it with "
            f"`ackd train --preset {one.method['preset']}`, and name that run"
        )
    return env


def step_flops(env: DistillationEnv) -> float:
    """FLOPs of a step that transfers all knowledge types of an environment, for a batch of mean length.

    `flops_share` is a share of this number. For a method with other losses the number is different.
    """
    one = env.distillation
    everything = list(one.distiller.knowledge.values())
    return one.distiller.flops(everything, one.batch_size, round(float(one.task.train.lengths.mean())), whole=True)
