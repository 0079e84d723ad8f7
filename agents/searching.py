"""Optuna's TPE and successive halving as an agent: schedules are compared with weight 1 throughout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ackd.agents.best_schedule import HALVING, LOGS, RUNGS, find_optuna
from ackd.agents.playing import Array, Scheduled, completed, families_in, play
from ackd.agents.schedule import KNOTS, Schedule
from ackd.errors import InputError
from ackd.mdp.observations import FAMILIES
from ackd.runs.curves import Curves

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


@dataclass(eq=False)
class Tried:
    """A schedule and the gains of its students."""

    logs: Array  # [knots, families that are searched]
    gains: list[float] = field(default_factory=list)  # of each student, over one with weight 1 throughout

    @property
    def worth(self) -> float:
        """The expected gain: sum / (students + 1), as if one more student had gained nothing."""
        return sum(self.gains) / (len(self.gains) + 1)


class BestSchedule(Scheduled):
    """Learns a `Schedule` by TPE; schedules that do well train more students.

    A round has N students on the same batches. One has weight 1 throughout; the others are compared with it, so that
    rounds on different seeds are comparable. The best third of the tried schedules train again, until each has had 3
    students. All other students try new proposals, in the last round the next best schedules instead. With N = 1,
    students are compared with the first one, which has weight 1 throughout.

    Args:
        env: the students; its action space is `Box(0, 1)`, as `ackd.mdp.action_spaces.Weights`.
        decisions: number of decisions in an episode.
        episodes: students in all; an incomplete round is left out.
        settings: number of settings.
        knots: number of knots of the schedule.
        seed: seed of the search; it also seeds the environments.
        curves: not used.

    Raises:
        InputError: if there are several settings, or Optuna is not installed.

    References:
        As for `ackd.agents.best_schedule.best_schedule`, the same search over any function.
    """

    def __init__(
        self,
        env: VecEnv,
        *,
        decisions: int,
        episodes: int,
        settings: int = 1,
        knots: int = KNOTS,
        seed: int = 0,
        curves: Curves | None = None,
    ) -> None:
        find_optuna()
        if settings > 1:
            raise in_one_setting("best-schedule", settings)
        env.seed(seed)
        self.env, self.decisions, self.knots, self.seed = env, decisions, knots, seed
        self.actor = Schedule(knots)
        self.tried: list[Tried] = []
        self._first: float | None = None  # return of the first student, if one trains at a time

    def learn(self, decisions: int) -> None:
        """Trains students for `decisions` decisions, counted over all environments."""
        observation = self.env.reset()
        assert isinstance(observation, dict)
        families = families_in(observation)
        rounds = max(decisions // (self.decisions * self.env.num_envs), 1)
        for number in range(rounds):
            given = self._given(number, rounds, len(families))
            anchors = self.env.num_envs - len(given)
            schedules = [Schedule(self.knots)] * anchors + [self._schedule(one.logs, families) for one in given]
            earned, observation = play(self.env, observation, schedules, self.decisions)
            if self._first is None:
                self._first = float(earned[0])
            base = float(earned[0]) if self.env.num_envs > 1 else self._first
            for one, value in zip(given, earned[anchors:], strict=True):
                one.gains.append(float(value) - base)
        best = max(self.tried, key=lambda one: one.worth, default=None)
        if best is not None and best.worth > 0:
            self.actor = self._schedule(best.logs, families)

    def _given(self, number: int, rounds: int, families: int) -> list[Tried]:
        """The schedules of a round, without weight 1 throughout."""
        count = self.env.num_envs - 1 if self.env.num_envs > 1 else int(number > 0)
        ranked = sorted(self.tried, key=lambda one: -one.worth)
        best = ranked[: len(ranked) // HALVING]
        again = [one for one in best if len(one.gains) < RUNGS[-1]]
        if number == rounds - 1:
            again += [one for one in ranked if one not in again]
        again = again[:count]
        new = [Tried(logs) for logs in self._proposals(count - len(again), number, families)]
        self.tried += new
        return again + new

    def _proposals(self, count: int, number: int, families: int) -> list[Array]:
        """New schedules, from all tried schedules and weight 1 throughout, which gains nothing."""
        if not count:
            return []
        optuna = find_optuna()
        ranges = {f"{i:04}": optuna.distributions.FloatDistribution(*LOGS) for i in range(self.knots * families)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            seed = int(np.random.default_rng((self.seed, number)).integers(2**31))
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in (Tried(np.zeros((self.knots, families))), *self.tried):
            parameters = dict(zip(ranges, one.logs.reshape(-1).tolist(), strict=True))
            study.add_trial(optuna.trial.create_trial(params=parameters, distributions=ranges, value=one.worth))
        asked = [study.ask(ranges) for _ in range(count)]
        return [np.array([one.params[name] for name in ranges]).reshape(self.knots, families) for one in asked]

    def _schedule(self, logs: Array, families: Sequence[str]) -> Schedule:
        table = np.zeros((self.knots, len(FAMILIES)))
        table[:, [FAMILIES.index(name) for name in families]] = logs
        return Schedule(self.knots, completed(table, families))


def in_one_setting(name: str, settings: int) -> InputError:
    """The error for several settings with a learner that compares students in one setting."""
    return InputError(
        f"{name} compares students in one setting, and there are {settings}: name a task and its teacher, and leave "
        "--instances away"
    )
