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
        """The costs of all episodes."""
        ...


class Course(Protocol):
    """The running episodes; `Recording` and `CohortEnv` have this attribute."""

    @property
    def training(self) -> Trained:
        """The training under way."""
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
    """The result of a decision."""

    observations: VecEnvObs
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    reset_infos: list[dict[str, Any]]
    notes: list[Note]


class EnvServer:
    """A worker's vector environment; its results include the notes that were recorded meanwhile.

    Args:
        venv: one or more environments.
        tape: buffer for the notes of the recording.
        watch: tracks the costs.
        course: the running episodes.
        replay_log: log of their trainings.
        fingerprints: of data, models and versions; they must be the same in every worker.
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
        """The number of environments, their spaces and their fingerprints."""
        venv = self._venv
        return Description(venv.num_envs, venv.observation_space, venv.action_space, self._fingerprints)

    def reset(self, seed: int | None, options: list[dict[str, Any]]) -> Begun:
        """Resets all environments; the first one takes `seed`, the next `seed + 1`, and so on."""
        if seed is not None:
            self._venv.seed(seed)
        self._venv.set_options(options)
        observations = self._venv.reset()
        return Begun(observations, self._venv.unwrapped.reset_infos, self._tape.take())

    def step(self, actions: NDArray[Any], seconds: float) -> Stepped:
        """Takes a decision in each environment; the agent needed `seconds` for them."""
        if self._course is not None:
            self._course.training.counts.shown(seconds)
        answer = self._venv.step(actions)
        return Stepped(*answer, self._venv.unwrapped.reset_infos, self._tape.take())

    def get_attr(self, name: str, indices: Sequence[int]) -> list[Any]:
        """An attribute of each environment."""
        return self._venv.get_attr(name, indices)

    def has_attr(self, name: str) -> bool:
        """True if all environments have the attribute."""
        return self._venv.has_attr(name)

    def set_attr(self, name: str, value: Any, indices: Sequence[int]) -> list[None]:
        """Sets an attribute of each environment."""
        self._venv.set_attr(name, value, indices)
        return [None for _ in indices]

    def env_method(self, name: str, /, *args: Any, indices: Sequence[int], **kwargs: Any) -> list[Any]:
        """Calls a method of each environment."""
        return self._venv.env_method(name, *args, indices=indices, **kwargs)

    def env_is_wrapped(self, wrapper: type[Any], indices: Sequence[int]) -> list[bool]:
        """Whether each environment has such a wrapper."""
        return self._venv.env_is_wrapped(wrapper, indices)

    def get_images(self) -> list[Any]:
        """A picture of each environment."""
        return list(self._venv.get_images())

    def state_dict(self) -> Any:
        """Everything that these episodes and later episodes depend on."""
        inner = self._venv.unwrapped
        return inner.state_dict() if isinstance(inner, CohortEnv) else self._venv.env_method("state_dict")

    def load_state_dict(self, state: Any) -> None:
        """Continues from a `state_dict`."""
        inner = self._venv.unwrapped
        if isinstance(inner, CohortEnv):
            inner.load_state_dict(state)
        else:
            for place, one in enumerate(state):
                self._venv.env_method("load_state_dict", one, indices=[place])

    def add_flops(self, flops: float) -> None:
        """Sets the agent's FLOPs for a decision."""
        assert self._watch is not None
        self._watch.agent_flops = flops

    def spent(self) -> CostTracker:
        """The costs of all episodes."""
        assert self._watch is not None
        return self._watch.costs

    def save(self) -> None:
        """Saves the present state of the trainings."""
        if self._journal is not None and self._course is not None:
            self._journal.save(self._course.training)

    def finish(self) -> None:
        """Marks the run as finished in the replay log."""
        if self._journal is not None:
            self._journal.finish()

    def close(self) -> None:
        """Closes the environments."""
        self._venv.close()


@dataclass(frozen=True)
class Registered:
    """Makes a worker's environments from a registered id, as in `RemoteVecEnv(start("subproc", Registered(id), 4))`.

    Args:
        id: the id in Gymnasium's registry.
        arguments: keyword arguments of the environment.
        count: number of environments in each worker.
    """

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    def __call__(self, worker: int) -> EnvServer:
        """The environments of a worker."""
        return EnvServer(DummyVecEnv([lambda: Monitor(self.one()) for _ in range(self.count)]))

    def one(self) -> gymnasium.Env[Any, Any]:
        """Makes one environment."""
        import ackd  # noqa: F401 - registers the ids of ackd

        env: gymnasium.Env[Any, Any] = gymnasium.make(self.id, disable_env_checker=True, **self.arguments)
        return env
