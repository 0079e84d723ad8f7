"""Population based training as an agent: one cohort is the population, and its best lineage becomes a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ackd.agents.pbt import Lineage, evolve
from ackd.agents.playing import Scheduled, completed, families_in
from ackd.agents.policy import Observations
from ackd.agents.schedule import KNOTS, MEMBER, MOST_KNOTS, Schedule
from ackd.agents.searching import in_one_setting
from ackd.errors import InputError
from ackd.mdp.action_spaces import entries_of
from ackd.mdp.observations import FAMILIES
from ackd.runs.curves import Curves
from ackd.types import LABELS, Selection

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

MOST_DECISIONS = MOST_KNOTS // 2 - 1  # the most that a schedule can represent one by one


class Copying(Protocol):
    """Environments that can copy students, such as `ackd.envs.cohort.CohortEnv`."""

    def inherit(self, parents: Sequence[int]) -> object:
        """Replaces each student by a copy of its parent, which may be itself."""
        ...


class Pbt(Scheduled):
    """Trains one population by `evolve`, and keeps the best student's weights, decision by decision, as a `Schedule`.

    A student's score is its reward so far, including its ancestors' rewards. By the default reward this is the measure
    on the reward split, which must be taken after each decision. Students are copied between decisions.

    Args:
        env: the population; its action space is `Box(0, 1)`, as `ackd.mdp.action_spaces.Weights`.
        decisions: number of decisions in an episode.
        episodes: students in all; it must be the number of students side by side.
        settings: number of settings.
        seed: seed of weights and copies; it also seeds the environments.
        curves: not used.

    Raises:
        InputError: if the environments cannot copy students, there are several settings or too many decisions, or not
            all students are side by side.
    """

    def __init__(
        self,
        env: VecEnv,
        *,
        decisions: int,
        episodes: int,
        settings: int = 1,
        seed: int = 0,
        curves: Curves | None = None,
    ) -> None:
        if settings > 1:
            raise in_one_setting("pbt", settings)
        if not hasattr(env.unwrapped, "inherit"):
            raise InputError("pbt copies students, which only a cohort in this process can: leave --workers away")
        if episodes != env.num_envs:
            raise InputError(
                f"pbt has one population, and {episodes} students are not the {env.num_envs} that train side by side: "
                "give as many of both"
            )
        if decisions > MOST_DECISIONS:
            raise InputError(
                f"a schedule holds the weights of at most {MOST_DECISIONS} decisions, and here are {decisions}: lower "
                "--decisions"
            )
        env.seed(seed)
        self.env, self.decisions, self.seed = env, decisions, seed
        self.actor = Schedule(KNOTS)
        self.lineage: Lineage | None = None

    def learn(self, decisions: int) -> None:
        """Trains the population once, whatever the number of decisions.

        Raises:
            InputError: if every student diverged.
        """
        observation = self.env.reset()
        assert isinstance(observation, dict)
        students = Students(self.env, observation, self.decisions)
        self.lineage = evolve(
            students,
            students.families,
            lambda: students.scores.tolist(),
            range(self.env.num_envs),
            interval=1,
            seed=self.seed,
        )
        table = np.zeros((self.decisions, len(FAMILIES)))
        table[:, [FAMILIES.index(name) for name in self.lineage.families]] = self.lineage.logs
        self.actor = Schedule.through(completed(table, families_in(observation)))


class Students:
    """Environments as a `ackd.agents.pbt.Population`; a step of it is a decision.

    Args:
        env: environments that have begun an episode.
        observation: first observation of the episode.
        steps: decisions in an episode.
    """

    def __init__(self, env: VecEnv, observation: Observations, steps: int) -> None:
        self._env, self.steps = env, steps
        mask = np.asarray(observation["mask"])[0]
        members = np.asarray(observation["knowledge"])[0].reshape(len(mask), -1)[:, MEMBER]
        self._entries = np.flatnonzero(mask)
        found = [FAMILIES[int(members[entry].argmax())] for entry in self._entries]
        self.families = {
            family if family == LABELS else str(entry): family
            for entry, family in zip(self._entries, found, strict=True)
        }
        self._width = len(mask)
        self.scores: NDArray[np.float64] = np.zeros(env.num_envs)  # NaN after divergence

    def reset(self, seeds: Sequence[int]) -> None:
        """Keeps the students that have just begun; the environments choose their seeds."""
        self.scores = np.zeros(len(seeds))

    def advance(self, selections: Sequence[Selection], steps: int) -> None:
        """Makes one decision for each student."""
        actions = np.zeros((len(selections), self._width), np.float32)
        for row, one in zip(actions, selections, strict=True):
            weights = {LABELS: one.labels, **one.weights}
            row[self._entries] = entries_of([weights.get(name, 0.0) for name in self.families])
        _, rewards, _, infos = self._env.step(actions)
        lost = np.array([bool(info.get("error/type")) for info in infos])
        self.scores = np.where(lost, np.nan, self.scores + rewards)

    def inherit(self, parents: Sequence[int]) -> None:
        """Copies students and their scores."""
        cast(Copying, cast(Any, self._env.unwrapped)).inherit(list(parents))
        self.scores = self.scores[list(parents)]
