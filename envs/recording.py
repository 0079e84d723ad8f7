"""A wrapper that records every decision and episode, in the same way for every policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ackd.costs import CostTracker
from ackd.envs.recorder import Notes, Recorder, ending, phases
from ackd.envs.trajectory import Trajectory
from ackd.mdp.action_spaces import Action
from ackd.mdp.episode import Episode, Phase
from ackd.mdp.observations import Observation
from ackd.training.distillation import Distillation
from ackd.types import EvalResult

if TYPE_CHECKING:
    from ackd.envs.cohort import CohortEnv  # brings stable-baselines3


class Trained(Protocol):
    """Attributes that `Recording` reads from an environment; a reset may replace each object."""

    @property
    def distillation(self) -> Distillation:
        """The training under way."""
        ...

    @property
    def trajectory(self) -> Trajectory:
        """The present episode from the agent's side: observations, rewards and infos."""
        ...

    @property
    def episode(self) -> Episode | None:
        """The episode so far; None before the first."""
        ...

    @property
    def knowledge(self) -> tuple[str, ...]:
        """The names of all knowledge types that an episode may have."""
        ...


class Recording(gymnasium.Wrapper[Observation, Action, Observation, Action]):
    """A wrapper that records the decisions and episodes of an environment.

    Args:
        env: the environment to record.
        folder: a run's folder, where a `Recorder` writes; or another destination for the notes.
        dev: measure dev when an episode ends; for the record only, since the agent never sees it.
        on_phase: called with each phase, as for a progress bar.
    """

    def __init__(
        self,
        env: Trained,
        folder: Path | Notes,
        *,
        dev: bool = True,
        on_phase: Callable[[Phase], object] | None = None,
    ) -> None:
        assert isinstance(env, gymnasium.Env)
        super().__init__(env)
        self.inner: Trained = env
        self.dev = dev
        self.agent_flops = 0.0  # of a decision, the agent's updates included
        self.on_phase = on_phase
        self.costs = CostTracker()  # of all episodes
        self.eval_results: dict[str, EvalResult] = {}  # on dev, at the end of the last episode
        self.returned = 0.0  # of the present or the last episode
        self._own = Recorder(folder, env.knowledge) if isinstance(folder, Path) else None
        self._notes: Notes = self._own or cast(Notes, folder)

    @property
    def training(self) -> Distillation:
        """The training under way."""
        return self.inner.distillation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode."""
        self.training.counts.decided()
        answer = super().reset(seed=seed, options=options)
        self.returned = 0.0
        self.training.counts.shown()
        return answer

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step and records it."""
        self.training.counts.decided(self.agent_flops)
        trajectory = self.inner.trajectory
        trajectory.on_phase = self.on_phase
        observation, reward, terminated, truncated, info = super().step(action)
        self.returned += float(reward)
        for note in phases(self._notes.episodes, trajectory):
            self._notes.write(note)
        if terminated or truncated:
            self.eval_results = {} if info["error/type"] or not self.dev else self._measure_dev()
            spent = self.training.costs
            self._notes.write(ending(self._notes.episodes, trajectory, self.returned, self.eval_results, spent))
            self.costs.add(spent)
        self.training.counts.shown()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the files that this wrapper opened."""
        if self._own is not None:
            self._own.close()
        super().close()

    def _measure_dev(self) -> dict[str, EvalResult]:
        return {name: self.training.evaluate(split, name) for name, split in self.training.task.dev.items()}


class CohortRecording:
    """Records a `CohortEnv`: each student's episode separately, with its share of the cost.

    Args:
        notes: destination of the notes.
    """

    def __init__(self, notes: Notes) -> None:
        self.agent_flops = 0.0  # of a decision, the agent's updates included
        self.costs = CostTracker()  # of all episodes
        self._notes = notes

    def __call__(self, env: CohortEnv, rewards: NDArray[np.float32], infos: Sequence[dict[str, Any]]) -> None:
        """Records one decision of every student, and the episodes at their end."""
        cohort, first = env.cohort, self._notes.episodes
        cohort.counts.decided(self.agent_flops * env.num_envs)
        for i, trajectory in enumerate(env.trajectories):
            for note in phases(first + i, trajectory):
                self._notes.write(note)
        if cohort.steps_done >= cohort.steps:
            measured = {name: cohort.evaluate(split, name) for name, split in cohort.distillation.task.dev.items()}
            share = cohort.costs.share(env.num_envs)
            for i, (trajectory, info) in enumerate(zip(env.trajectories, infos, strict=True)):
                eval_results = {} if info["error/type"] else {name: those[i] for name, those in measured.items()}
                returned = float(np.sum(trajectory.record().rewards))
                self._notes.write(ending(first + i, trajectory, returned, eval_results, share))
            self.costs.add(cohort.costs)
