"""Worker side of `RemoteVecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from ackd.costs import CostTracker
from ackd.envs.cohort import CohortEnv
from ackd.envs.recorder import BufferedRecorder, Note
from ackd.training.replay_log import ReplayLog
from ackd.training.trainer import Trained


class Watch(Protocol):
    """Tracks an agent's costs, as `Recording` and `CohortRecording` do."""

    agent_flops: float

    @property
    def costs(self) -> CostTracker:
        """Of all episodes."""
        ...


class Course(Protocol):
    """The episodes under way, as `Recording` and `CohortEnv` have them."""

    @property
    def training(self) -> Trained:
        """What is trained."""
        ...


class Description(NamedTuple):
    """What the learner needs to know about a worker's environments."""

    num_envs: int
    observation_space: Space[Any]
    action_space: Space[Any]
    fingerprints: Mapping[str, str]


class Begun(NamedTuple):
    """The result of a reset."""

    observations: VecEnvObs
    infos: list[dict[str, Any]]
    notes: list[Note]


class Stepped(NamedTuple):
    """What a decision comes to."""

    observations: VecEnvObs
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    reset_infos: list[dict[str, Any]]
    notes: list[Note]


class EnvServer:
    """A vector environment as a worker holds it; with its answers comes what was written down meanwhile.

    Args:
        venv: one or more environments.
        tape: where their recording writes.
        watch: the recording.
        course: the episodes under way.
        replay_log: of their trainings.
        fingerprints: of what they train on, which has to be the same in every worker.
    """

    def __init__(
        self,
        venv: VecEnv,
        *,
        tape: BufferedRecorder | None = None,
        watch: Watch | None = None,
        course: Course | None = None,
        replay_log: ReplayLog | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        self._venv, self._tape = venv, tape or BufferedRecorder()
        self._watch, self._course, self._journal = watch, course, replay_log
        self._fingerprints = fingerprints or {}

    def describe(self) -> Description:
        """How many there are, and what they are like."""
        venv = self._venv
        return Description(venv.num_envs, venv.observation_space, venv.action_space, self._fingerprints)

    def reset(self, seed: int | None, options: list[dict[str, Any]]) -> Begun:
        """Begins anew; the first environment takes the seed, the others those that follow."""
        if seed is not None:
            self._venv.seed(seed)
        self._venv.set_options(options)
        observations = self._venv.reset()
        return Begun(observations, self._venv.unwrapped.reset_infos, self._tape.take())

    def step(self, actions: NDArray[Any], seconds: float) -> Stepped:
        """A decision in each, which the agent took so many seconds for."""
        if self._course is not None:
            self._course.training.counts.shown(seconds)
        answer = self._venv.step(actions)
        return Stepped(*answer, self._venv.unwrapped.reset_infos, self._tape.take())

    def get_attr(self, name: str, indices: Sequence[int]) -> list[Any]:
        """As the environment does it; so do those below."""
        return self._venv.get_attr(name, indices)

    def has_attr(self, name: str) -> bool:
        """Whether all have it."""
        return self._venv.has_attr(name)

    def set_attr(self, name: str, value: Any, indices: Sequence[int]) -> list[None]:
        """Sets it."""
        self._venv.set_attr(name, value, indices)
        return [None for _ in indices]

    def env_method(self, name: str, /, *args: Any, indices: Sequence[int], **kwargs: Any) -> list[Any]:
        """Calls it."""
        return self._venv.env_method(name, *args, indices=indices, **kwargs)

    def env_is_wrapped(self, wrapper: type[Any], indices: Sequence[int]) -> list[bool]:
        """Asks for it."""
        return self._venv.env_is_wrapped(wrapper, indices)

    def get_images(self) -> list[Any]:
        """A picture of each."""
        return list(self._venv.get_images())

    def state_dict(self) -> Any:
        """Everything that the rest of the episodes, and those after them, depend on."""
        inner = self._venv.unwrapped
        return inner.state_dict() if isinstance(inner, CohortEnv) else self._venv.env_method("state_dict")

    def load_state_dict(self, state: Any) -> None:
        """Goes on from there."""
        inner = self._venv.unwrapped
        if isinstance(inner, CohortEnv):
            inner.load_state_dict(state)
        else:
            for place, one in enumerate(state):
                self._venv.env_method("load_state_dict", one, indices=[place])

    def add_flops(self, flops: float) -> None:
        """From now on the agent spends so much on a decision."""
        assert self._watch is not None
        self._watch.agent_flops = flops

    def spent(self) -> CostTracker:
        """Of all episodes."""
        assert self._watch is not None
        return self._watch.costs

    def save(self) -> None:
        """Saves the trainings as they stand."""
        if self._journal is not None and self._course is not None:
            self._journal.save(self._course.training)

    def finish(self) -> None:
        """Nothing more will be asked of the trainings."""
        if self._journal is not None:
            self._journal.finish()

    def close(self) -> None:
        """Closes the environments."""
        self._venv.close()


@dataclass(frozen=True)
class Registered:
    """Makes a worker's environments from a registered id, as in `RemoteVecEnv(start("subproc", Registered(id), 4))`.

    Args:
        id: of Gymnasium.
        arguments: of the environment.
        count: how many each worker has.
    """

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    def __call__(self, worker: int) -> EnvServer:
        """Those of a worker."""
        return EnvServer(DummyVecEnv([lambda: Monitor(self.one()) for _ in range(self.count)]))

    def one(self) -> gymnasium.Env[Any, Any]:
        """One of them."""
        import ackd  # noqa: F401 - registers ours, where Gymnasium does not know them yet

        env: gymnasium.Env[Any, Any] = gymnasium.make(self.id, disable_env_checker=True, **self.arguments)
        return env
