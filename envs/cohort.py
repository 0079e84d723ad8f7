"""A cohort as a vector environment of stable-baselines3: N students in one batched step, one trajectory each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ackd.choices import Choice
from ackd.cohort import Cohort
from ackd.envs.distillation import make_choice, measured
from ackd.envs.trajectory import Trajectory
from ackd.episode import Episode, Phase
from ackd.errors import InputError
from ackd.rewards import GapClosed, Reward
from ackd.signals import Observation, Signals
from ackd.types import Report, Selection, Standing

Watch = Callable[["CohortEnv", NDArray[np.float32], Sequence[dict[str, Any]]], None]


class CohortEnv(VecEnv):
    """N students' trainings side by side, all on the same batches, each under its own decisions.

    Each is the `DistillationEnv` of its student; what differs is that all share the order of the data. A student that
    diverges is out: its return is `ERROR_RETURN`, whatever it had earned, and it earns nothing until the others are
    done, since all end together.

    Args:
        cohort: the students.
        decision_interval: optimizer steps between two decisions.
        reward: what a decision earns.
        choice: `subset`, `weights`, or an action space of one's own.
        k_max: length of the action.
        reward_every: decisions from one measurement on the reward split to the next; None measures nothing.
        watch: is shown rewards and infos after every decision, before the environment resets itself at the end.
        seed: of the episodes' seeds, where `seed` is not called.

    Raises:
        InputError: if a number is out of range.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        decision_interval: int = 20,
        reward: Reward | None = None,
        choice: str | Choice = "subset",
        k_max: int = 8,
        reward_every: int | None = 1,
        watch: Watch | None = None,
        seed: int = 0,
    ) -> None:
        if decision_interval < 1:
            raise InputError(f"the decision interval must be at least 1 step, got {decision_interval}")
        distillation = cohort.distillation
        self.cohort, self.decision_interval, self.reward_every = cohort, decision_interval, reward_every
        self.watch = watch
        self.knowledge = tuple(distillation.families)
        self.choice = make_choice(choice, self.knowledge, k_max)
        self.signals = Signals(distillation.families, distillation.type_prices, k_max)
        self.trajectories = [Trajectory(self.signals, self.choice, reward or GapClosed()) for _ in range(cohort.size)]
        self._generator = np.random.default_rng(seed)
        self._started = self._handed = 0.0  # when the episode began, and when the agent got its last observations
        self._actions: NDArray[Any] = np.zeros(0)
        self.render_mode: str | None = None  # asked for in the constructor of a VecEnv
        super().__init__(cohort.size, self.signals.space, self.choice.space)

    @property
    def decisions(self) -> int:
        """Decisions in an episode."""
        return -(-self.cohort.steps // self.decision_interval)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """The next episodes take the seeds `seed`, `seed + 1`, ..., those after them follow from it."""
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        return super().seed(seed)

    def reset(self) -> Observation:
        """Begins with N new students."""
        seeds = [int(self._generator.integers(2**31)) if given is None else given for given in self._seeds]
        self._reset_seeds()
        self._reset_options()
        self._started = time.time()
        cohort = self.cohort
        cohort.reset(seeds)
        starts: Sequence[Standing | None] = [None] * self.num_envs
        teacher = None
        if self.reward_every is not None:
            reward_split = cohort.distillation.task.reward
            starts, teacher = cohort.measure(reward_split, "reward"), cohort.measure_teacher(reward_split, "reward")
        began = [
            trajectory.begin(Episode(start, teacher, cohort.steps, self.decision_interval), seed)
            for trajectory, start, seed in zip(self.trajectories, starts, seeds, strict=True)
        ]
        self.reset_infos = [info for _, info in began]
        self._handed = time.perf_counter()
        return _stacked([observation for observation, _ in began])

    def step_async(self, actions: NDArray[Any]) -> None:
        """Takes the decisions, [N, K_max]."""
        self._actions = np.asarray(actions)
        self.cohort.ledger.seconds["agent"] += time.perf_counter() - self._handed

    def step_wait(self) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Trains for one phase; at the end of the budget all begin anew, as a VecEnv does."""
        phases = self._train([self.choice.selection(action) for action in self._actions])
        steps = [
            self._skipped(trajectory) if trajectory.over else trajectory.then(action, phase)
            for trajectory, action, phase in zip(self.trajectories, self._actions, phases, strict=True)
        ]
        observations, rewards = [step[0] for step in steps], np.array([step[1] for step in steps], dtype=np.float32)
        infos = [step[3] for step in steps]
        over = self.cohort.steps_done >= self.cohort.steps
        if self.watch is not None:
            self.watch(self, rewards, infos)
        if over:
            elapsed = round(time.time() - self._started, 6)
            for trajectory, observation, info in zip(self.trajectories, observations, infos, strict=True):
                returned = float(np.sum(trajectory.record().rewards))
                info |= {
                    "terminal_observation": observation,
                    "TimeLimit.truncated": False,
                    "episode": {"r": returned, "l": self.decisions, "t": elapsed},  # as Monitor has it
                }
        following = self.reset() if over else _stacked(observations)
        self._handed = time.perf_counter()
        return following, rewards, np.full(self.num_envs, over), infos

    def close(self) -> None:
        """There is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the trajectories, or of this environment, which all have."""
        return [
            getattr(self.trajectories[i] if hasattr(self.trajectories[i], attr_name) else self, attr_name)
            for i in self._get_indices(indices)
        ]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the trajectories."""
        for i in self._get_indices(indices):
            setattr(self.trajectories[i], attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of the trajectories."""
        chosen = [self.trajectories[i] for i in self._get_indices(indices)]
        return [getattr(trajectory, method_name)(*method_args, **method_kwargs) for trajectory in chosen]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No student has a wrapper of its own."""
        return [False for _ in self._get_indices(indices)]

    def _train(self, selections: Sequence[Selection]) -> list[Phase]:
        cohort = self.cohort
        steps, prices, price_of_all = cohort.steps_done, list(cohort.prices), cohort.price_of_all
        learning_rate = cohort.learning_rate
        reports = cohort.advance(selections, self.decision_interval)
        decision = -(-cohort.steps_done // self.decision_interval)
        standings: Sequence[Standing | None] = [None] * self.num_envs
        if measured(decision, self.decisions, self.reward_every):
            standings = cohort.measure(cohort.distillation.task.reward, "reward")
        return [
            Phase(
                selection,
                report,
                standing if report.finite else None,
                steps=cohort.steps_done - steps,
                learning_rate=learning_rate,
                flops=after - before,
                flops_all=cohort.price_of_all - price_of_all,
            )
            for selection, report, standing, before, after in zip(
                selections, reports, standings, prices, cohort.prices, strict=True
            )
        ]

    def _skipped(self, trajectory: Trajectory) -> tuple[Observation, float, bool, dict[str, Any]]:
        """A decision of a student that is out."""
        assert trajectory.episode is not None
        last = trajectory.episode.phases[-1]
        nothing = Report(0.0, 0.0, 0.0, 0.0, 0.0, {})
        still = replace(last, selection=Selection(), report=nothing, standing=None, flops=0.0)
        info = trajectory.info(still) | {"error/type": "divergence"}
        return self.signals.observe(trajectory.episode), 0.0, True, info


def _stacked(observations: Sequence[Observation]) -> Observation:
    return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
