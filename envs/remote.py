"""Environments in workers, as one vector environment of stable-baselines3."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ackd.costs import CostTracker
from ackd.distributed.workers import WorkerFailed, WorkerLost, Workers
from ackd.envs.checks import check_actions
from ackd.envs.env_server import Begun, Description, Stepped
from ackd.envs.recorder import Note
from ackd.errors import InputError
from ackd.runs.stopping import Stopped, hold, release, seconds_left, stop, stop_asked
from ackd.training.identity import check_identity

logger = logging.getLogger("ackd")

LOSSES = 3  # of one worker during one call, before giving up
PATIENCE = 5.0  # seconds for a worker to close its environments
SHORT = 0.1  # least seconds for an answer after a signal

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class RemoteVecEnv(VecEnv):
    """A vector environment of the environments in all workers, in the workers' order.

    A worker that dies or exceeds its time limit is replaced, and all earlier calls are repeated on its successor.
    Environments with a replay log read the logged results and train only the rest again, with the same result bit for
    bit. So only time is lost.

    Args:
        workers: the workers, each with an `EnvServer`.
        seconds: time limit of a decision; None waits forever.
        fingerprints: the learner's fingerprints; every worker's must be the same.
        watch: called with the workers' notes on each decision, worker by worker.

    Raises:
        InputError: if a worker has other spaces or fingerprints; later, if a worker is lost repeatedly, or if a
            method is called after `close`.
        WorkerFailed: if an error occurs in a worker; if an attribute is missing, it is an AttributeError.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        seconds: float | None = None,
        fingerprints: Mapping[str, str] | None = None,
        watch: Callable[[Sequence[Note]], object] | None = None,
    ) -> None:
        self.workers, self._seconds, self._watch = workers, seconds, watch
        self._asked: dict[int, Call] = {}  # each worker's pending call
        self._history: list[list[Call]] = [[] for _ in range(len(workers))]  # calls to repeat on a successor
        self._handed = 0.0  # when the agent got its last observations
        self._flops, self._closed = 0.0, False
        there: list[Description] = self._ask_all("describe")
        for worker, one in enumerate(there):
            self._check(worker, one, there[0], fingerprints or {})
        self._places = [(worker, i) for worker, one in enumerate(there) for i in range(one.num_envs)]
        self._firsts = [self._places.index((worker, 0)) for worker in range(len(workers))]
        super().__init__(len(self._places), there[0].observation_space, there[0].action_space)

    def _check(self, worker: int, one: Description, first: Description, fingerprints: Mapping[str, str]) -> None:
        check_identity(one.fingerprints, fingerprints, self.workers.name(worker))
        if (one.observation_space, one.action_space) != (first.observation_space, first.action_space):
            raise InputError(f"{self.workers.name(worker)} has other observations or actions than worker 0")

    def reset(self) -> VecEnvObs:
        """Resets all environments."""
        self._check_open()
        for worker, first in enumerate(self._firsts):
            count = self._count(worker)
            self._begin(worker, "reset", self._seeds[first], list(self._options[first : first + count]))
        self._reset_seeds()
        self._reset_options()
        answers: list[Begun] = self._ends()
        self.reset_infos = [info for one in answers for info in one.infos]
        self._show(answers)
        observations: VecEnvObs = _joined([one.observations for one in answers])
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Sends each worker its part of the decisions.

        Raises:
            InputError: if there is not one action for each environment, or an action is not in the action space.
        """
        self._check_open()
        actions = check_actions(self.action_space, actions, self.num_envs)
        hold()
        seconds = (time.perf_counter() - self._handed) / len(self.workers)
        for worker, first in enumerate(self._firsts):
            self._begin(worker, "step", actions[first : first + self._count(worker)], seconds)

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the results of all workers.

        Raises:
            Stopped: after a signal; the trainings are saved first.
        """
        try:
            answers: list[Stepped] = self._ends()
            if stop_asked():
                stop()
        except Stopped:
            self._ask_idle("save", self._patience)
            raise
        self.reset_infos = [info for one in answers for info in one.reset_infos]
        self._show(answers)
        return (
            _joined([one.observations for one in answers]),
            np.concatenate([one.rewards for one in answers]),
            np.concatenate([one.dones for one in answers]),
            [info for one in answers for info in one.infos],
        )

    def close(self) -> None:
        """Closes the environments and ends the workers, once."""
        if self._closed:
            return
        self._closed = True
        if not stop_asked():  # after a signal, closing would only take time
            self._ask_idle("close", PATIENCE)
        self.workers.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each environment."""
        return self._each(indices, "get_attr", attr_name, kept=False)

    def has_attr(self, attr_name: str) -> bool:
        """True if all environments have the attribute."""
        return all(self._ask_all("has_attr", attr_name, kept=False))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of each environment."""
        self._each(indices, "set_attr", attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of each environment."""
        return self._each(indices, "env_method", method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Whether each environment has such a wrapper."""
        return self._each(indices, "env_is_wrapped", wrapper_class, kept=False)

    def get_images(self) -> list[Any]:
        """A picture of each environment."""
        return [image for images in self._ask_all("get_images", kept=False) for image in images]

    def state_dict(self) -> list[Any]:
        """Everything that these episodes and later episodes depend on; one entry for each worker."""
        return self._ask_all("state_dict", kept=False)

    def load_state_dict(self, state: Sequence[Any]) -> None:
        """Continues from a `state_dict` of the same number of workers with the same environments."""
        self._check_open()
        for worker, one in enumerate(state):
            self._begin(worker, "load_state_dict", one)
        self._ends()

    @property
    def agent_flops(self) -> float:
        """The agent's FLOPs for a decision, its updates included."""
        return self._flops

    @agent_flops.setter
    def agent_flops(self, flops: float) -> None:
        self._flops = flops
        self._ask_all("add_flops", flops)

    @property
    def costs(self) -> CostTracker:
        """The costs of all episodes in all workers."""
        total = CostTracker()
        for one in self._ask_all("spent", kept=False):
            total.add(one)
        return total

    def finish(self) -> None:
        """Marks the run as finished in the workers' replay logs.

        Raises:
            Stopped: after a signal.
        """
        self._ask_all("finish", kept=False)
        release()

    @property
    def _patience(self) -> float | None:
        """Time limit of a decision in seconds; after a signal, the time that is left until the run is ended."""
        return max(seconds_left(), SHORT) if stop_asked() else self._seconds

    def _count(self, worker: int) -> int:
        following = [*self._firsts[1:], len(self._places)]
        return following[worker] - self._firsts[worker]

    def _show(self, answers: Sequence[Begun | Stepped]) -> None:
        for one in answers:
            if self._watch is not None:
                self._watch(one.notes)
        self._handed = time.perf_counter()

    def _each(self, indices: Any, method: str, *args: Any, kept: bool = True, **kwargs: Any) -> list[Any]:
        """Calls a method of `EnvServer` that takes indices; returns the results in the order of `indices`."""
        self._check_open()
        wanted = [self._places[i] for i in self._get_indices(indices)]
        busy = dict.fromkeys(worker for worker, _ in wanted)
        for worker in busy:
            indices = [place for its, place in wanted if its == worker]
            self._begin(worker, method, *args, indices=indices, **kwargs)
        answers = dict(zip(busy, map(iter, self._ends(kept=kept)), strict=True))
        return [next(answers[worker]) for worker, _ in wanted]

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("these environments are closed, and their workers gone: make new ones")

    def _ask_all(self, method: str, *args: Any, kept: bool = True) -> list[Any]:
        self._check_open()
        for worker in range(len(self.workers)):
            self._begin(worker, method, *args)
        return self._ends(kept=kept)

    def _ask_idle(self, method: str, seconds: float | None) -> None:
        """Calls a method on all workers without a pending call; ignores workers that are lost or fail."""
        idle = [worker for worker in range(len(self.workers)) if worker not in self._asked]
        for tell in (lambda worker: self.workers.send(worker, method), lambda one: self.workers.receive(one, seconds)):
            for worker in idle:
                with suppress(WorkerLost, WorkerFailed):
                    tell(worker)

    def _begin(self, worker: int, method: str, *args: Any, **kwargs: Any) -> None:
        self._asked[worker] = method, args, kwargs
        with suppress(WorkerLost):  # receiving its answer reports the loss
            self.workers.send(worker, method, *args, **kwargs)

    def _ends(self, *, kept: bool = True) -> list[Any]:
        """Receives all pending answers; then returns them, or raises the first error.

        Raises:
            Stopped: if a signal ends a worker's training; the call of a worker without an answer stays pending.
        """
        answers: list[Any] = []
        errors: list[InputError | WorkerFailed | Stopped] = []
        for worker in list(self._asked):
            try:
                answers.append(self._end(worker, kept=kept))
                del self._asked[worker]
            except (InputError, WorkerFailed) as error:
                errors.append(error)
                del self._asked[worker]
            except Stopped as stopped:
                errors.insert(0, stopped)
        if errors:
            raise errors[0]
        return answers

    def _end(self, worker: int, *, kept: bool) -> Any:
        """Receives the answer to a worker's call; `kept` calls are repeated on a successor."""
        call, reason = self._asked[worker], ""
        for losses in range(LOSSES):
            try:
                if losses:
                    self._replace(worker, call)
                answer = self.workers.receive(worker, self._patience)
            except WorkerLost as lost:
                if stop_asked():
                    stop()
                reason = str(lost)
                logger.warning("%s, after %d calls", reason, len(self._history[worker]))
                continue
            if kept:
                self._history[worker].append(call)
            return answer
        raise InputError(
            f"{reason}, and so it went {LOSSES} times over at the same {call[0]}: look for what ends it, such as too "
            "little memory, or give it more time with --step-timeout; --resume goes on from there"
        )

    def _replace(self, worker: int, call: Call) -> None:
        """Restarts a lost worker, repeats its earlier calls and sends the pending call again."""
        self.workers.restart(worker)
        for method, args, kwargs in self._history[worker]:
            if stop_asked():
                stop()
            self.workers.send(worker, method, *args, **kwargs)
            self.workers.receive(worker, self._seconds)  # the answer and its notes are known already
        method, args, kwargs = call
        self.workers.send(worker, method, *args, **kwargs)


def _joined(parts: Sequence[Any]) -> Any:
    """Concatenates the observations of several vector environments."""
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(those) for those in zip(*parts, strict=True))
    return np.concatenate(parts)
