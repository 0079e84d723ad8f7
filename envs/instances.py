"""Distillation over a set of instances: each episode is a student's training in one of them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from ackd.envs.checks import check_render_mode
from ackd.envs.distillation import DistillationEnv
from ackd.envs.instance_files import Instance, read_instances, shipped
from ackd.envs.replay import Record
from ackd.envs.trajectory import Trajectory
from ackd.errors import InputError, unknown
from ackd.mdp.action_spaces import Action, Choice
from ackd.mdp.episode import Episode
from ackd.mdp.observations import Observation, Signals
from ackd.mdp.rewards import Reward
from ackd.training.distillation import Distillation
from ackd.training.replay_log import ReplayLog

__all__ = ["ORDERS", "Instance", "InstanceEnv", "read_instances", "shipped"]

ORDERS = ("round-robin", "sampled")
OPTIONS = ("instance", "seed")


class InstanceEnv(gymnasium.Env[Observation, Action]):
    """An environment over several instances; each episode uses the `DistillationEnv` of one of them.

    Args:
        instances: at least one; the first is built immediately, the others at their first turn.
        make: builds an instance's environment from its setting, `k_max` and `common`, as `ackd.envs.make.distill` does.
        order: `round-robin`, or `sampled` with equal probabilities.
        seed: seed of the sampling.
        k_max: length of the action, the same for all instances.
        keep: environments in memory at once; the least recently used one is dropped. An instance that is built again
            has the same episodes.
        shard: (first, stride): this environment takes the turns first, first + stride, ...; others take the rest. The
            i-th of several is seeded with the seed of the first plus i, as stable-baselines3 does.
        render_mode: must be None; Gymnasium may pass it.
        **common: settings of all instances, such as the device; an instance may not set them too.

    `knowledge` contains the types of all instances in the order of their first appearance. Actions, observed features
    and the mask follow the present instance's own order.

    The i-th episode of an instance trains the student with the i-th seed of its block; after the last seed, the first
    follows again. It does not depend on the agent or on the other instances. `reset(seed=...)` restarts the order and
    the blocks. Options of `reset`: `instance` selects an instance by name, out of turn; `seed` selects a student
    without counting the episode. DACBench's wrappers use the methods `use_next_instance` and `get_inst_id`.

    Raises:
        InputError: if the instances do not fit together, or one cannot be built.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(
        self,
        instances: Sequence[Instance],
        make: Callable[..., DistillationEnv],
        *,
        order: str = "round-robin",
        seed: int = 0,
        k_max: int = 8,
        keep: int = 4,
        shard: tuple[int, int] = (0, 1),
        render_mode: str | None = None,
        **common: Any,
    ) -> None:
        check_render_mode(render_mode)
        if order not in ORDERS:
            raise unknown("order of instances", order, ORDERS)
        if keep < 1:
            raise InputError(f"at least 1 environment has to be kept, got {keep}")
        self.instances = {one.name: one for one in instances}
        if not instances or len(self.instances) < len(instances):
            raise InputError("give at least one instance, and each a name of its own")
        for one in instances:
            if len(one.knowledge) > k_max:
                raise InputError(
                    f"k_max is {k_max}, but instance {one.name!r} has {len(one.knowledge)} knowledge types: raise it"
                )
            if twice := sorted(one.setting.keys() & {*common, "k_max"}):
                raise InputError(f"instance {one.name!r} sets {', '.join(twice)}, which the caller sets for all")
        self.knowledge = tuple(dict.fromkeys(name for one in instances for name in one.knowledge))
        self.order, self._make, self._keep = order, make, keep
        self._common = {**common, "k_max": k_max}
        self.np_random = np.random.default_rng(seed)  # draws instances, and nothing else
        self._first, self._stride = shard
        self._turns = 0  # turns taken so far, those of others included
        self._journal: ReplayLog | None = None  # shared by all trainings, one after the other
        self._episodes = dict.fromkeys(self.instances, 0)
        self._following: str | None = None  # the instance of the next episode, if chosen
        self._kept: OrderedDict[str, DistillationEnv] = OrderedDict()  # the most recently used one is last
        self.instance = instances[0]
        self.present = self._kept[self.instance.name] = self._build(self.instance)
        self.observation_space, self.action_space = self.present.observation_space, self.present.action_space

    def every(self) -> list[DistillationEnv]:
        """Builds an environment of each instance; they do not count towards `keep`."""
        return [self._build(one) for one in self.instances.values()]

    @property
    def distillation(self) -> Distillation:
        """The training under way."""
        return self.present.distillation

    @property
    def trajectory(self) -> Trajectory:
        """The present episode from the agent's side: observations, rewards and infos."""
        return self.present.trajectory

    @property
    def episode(self) -> Episode | None:
        """The episode so far; None before the first."""
        return self.present.episode

    @property
    def decisions(self) -> int:
        """The number of decisions in an episode of the present instance."""
        return self.present.decisions

    @property
    def signals(self) -> Signals:
        """The signals that are observed of the present instance."""
        return self.present.signals

    @property
    def choice(self) -> Choice:
        """The action space, and the present instance's names for its entries."""
        return self.present.choice

    @property
    def reward(self) -> Reward:
        """The reward function of the present instance."""
        return self.present.reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins with a new student in the next instance, or in the one that the options name.

        Raises:
            InputError: if an option or the instance is unknown, or the instance cannot be built.
        """
        asked = options or {}
        for name in asked:
            if name not in OPTIONS:
                raise unknown("option of reset", str(name), OPTIONS)
        student = asked.get("seed")
        if student is not None and not (type(student) is int and student >= 0):
            raise InputError(f"the option seed must be a whole number of at least 0, got {student!r}")
        super().reset(seed=None if seed is None else seed - self._first)
        if seed is not None:
            self._turns, self._episodes = 0, dict.fromkeys(self.instances, 0)
        following = asked.get("instance", self._following)
        self._enter(self._own_turn() if following is None else following)
        self._following = None
        if student is None:
            student = self.instance.seed(self._episodes[self.instance.name])
            self._episodes[self.instance.name] += 1
        observation, info = self.present.reset(seed=student)
        return observation, {**info, "instance": self.instance.name}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Trains under the action's selection until the next decision.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset and after the end of an episode.
            InputError: if the action is not in the action space.
        """
        if self._following is not None:
            raise gymnasium.error.ResetNeeded("another instance was asked for: call reset()")
        observation, reward, terminated, truncated, info = self.present.step(action)
        return observation, reward, terminated, truncated, {**info, "instance": self.instance.name}

    def use_next_instance(self, instance: Instance | str | None = None, instance_id: str | None = None) -> None:
        """Switches to an instance, by default the next in order; the next `reset` begins in it.

        Raises:
            InputError: if there is no such instance.
        """
        asked = instance.name if isinstance(instance, Instance) else instance or instance_id
        following = self._own_turn() if asked is None else asked
        self._enter(following)
        self._following = following

    def get_inst_id(self) -> str:
        """The name of the present instance."""
        return self.instance.name

    def replay(self, replay_log: ReplayLog | None) -> None:
        """Sets the replay log, as in `DistillationEnv`; all trainings share it, one after the other."""
        self._journal = replay_log
        self.present.replay(replay_log)

    def action_masks(self) -> NDArray[np.bool_]:
        """The allowed values of an action in the present instance; see `Trajectory.action_masks`."""
        return self.present.action_masks()

    def record(self) -> Record:
        """The episode so far, for `validate`."""
        return replace(self.present.record(), instance=self.instance.name)

    def validate(self, record: Record) -> bool:
        """True if replaying a record in its instance, on a fork, earns the rewards that it claims."""
        if record.instance not in self.instances:
            return False
        twin = self.fork()
        twin._enter(record.instance)
        return twin.present.validate(record)

    def state_dict(self) -> dict[str, Any]:
        """Everything that this episode and later episodes depend on."""
        return {
            "instance": self.instance.name,
            "turns": self._turns,
            "episodes": dict(self._episodes),
            "following": self._following,
            "np_random": self.np_random.bit_generator.state,
            "present": self.present.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict` of an environment with the same arguments."""
        self._enter(state["instance"])
        self._turns, self._episodes = state["turns"], dict(state["episodes"])
        self._following = state["following"]
        self.np_random.bit_generator.state = state["np_random"]
        self.present.load_state_dict(state["present"])

    def fork(self) -> InstanceEnv:
        """An independent copy in the same state; data and teachers are shared because they never change."""
        twin = copy.copy(self)
        twin.present = self.present.fork()
        twin._kept = OrderedDict({self.instance.name: twin.present})
        twin._episodes = dict(self._episodes)
        twin.np_random = copy.deepcopy(self.np_random)
        twin.observation_space = copy.deepcopy(self.observation_space)  # spaces draw from generators of their own
        twin.action_space = copy.deepcopy(self.action_space)
        return twin

    def _own_turn(self) -> str:
        """Takes this environment's next turn; skips the turns of others and counts their episodes."""
        while self._turns % self._stride != self._first:
            self._episodes[self._next()] += 1
        return self._next()

    def _next(self) -> str:
        """Takes the next turn and returns its instance."""
        names = list(self.instances)
        turn = self._turns if self.order == "round-robin" else int(self.np_random.integers(len(names)))
        self._turns += 1
        return names[turn % len(names)]

    def _enter(self, name: str) -> None:
        if name not in self.instances:
            raise unknown("instance", str(name), self.instances)
        if name not in self._kept:
            while len(self._kept) >= self._keep:
                self._kept.popitem(last=False)
            self._kept[name] = self._alike(self._build(self.instances[name]), name)
        self._kept.move_to_end(name)
        self.instance, self.present = self.instances[name], self._kept[name]
        self.present.replay(self._journal)

    def _build(self, instance: Instance) -> DistillationEnv:
        try:
            with torch.random.fork_rng(devices=[]):  # an agent draws from torch's generator; building must not
                env = self._make(**instance.setting, **self._common)
        except InputError as error:
            raise InputError(f"instance {instance.name!r}: {error}") from error
        if env.knowledge != instance.knowledge:
            raise InputError(
                f"instance {instance.name!r} has the knowledge types {', '.join(env.knowledge)}, and its setting says "
                f"{', '.join(instance.knowledge)}: name them in its types, in that order"
            )
        return env

    def _alike(self, env: DistillationEnv, name: str) -> DistillationEnv:
        """Returns the environment if its spaces equal those of the first instance."""
        if (env.observation_space, env.action_space) != (self.observation_space, self.action_space):
            raise InputError(
                f"instance {name!r} has other observations or actions than {next(iter(self.instances))!r}: "
                "set choice and observe_cls alike, and with observe_cls take models of the same widths"
            )
        return env
