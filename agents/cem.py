"""Learns a schedule by the cross-entropy method; every sample is a student's whole training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ackd.agents.learned import batch_of
from ackd.agents.playing import Array, Scheduled, completed, families_in, play
from ackd.agents.policy import Observations
from ackd.agents.schedule import KNOTS, ProbeRule, Schedule
from ackd.mdp.action_spaces import DOUBLINGS
from ackd.mdp.observations import FAMILIES
from ackd.runs.curves import Curves

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

FARTHEST = 3.0 * DOUBLINGS  # doublings: weights are clipped at 3, so a line that goes farther is steeper in between
SPREAD = 3.0  # doublings: the standard deviation at the start
SEVERAL = 0.5  # share of the way; on a quadratic it keeps 3/4 of the gain, and loses nothing if weight 1 is best


class Distribution:
    """Independent normal distributions over a schedule's numbers, which move towards the best samples.

        mean <- sum_i w_i x_i        std <- max(sqrt(sum_i w_i (x_i - mean)^2), least)
        w_i proportional to log(n + 1/2) - log(i), for the n best samples x_1, x_2, ...

    Args:
        size: how many numbers.
        spread: standard deviation at the start, in doublings of a weight.
        least: lower bound of the standard deviation.
        elite: share of the samples that count as the best.
        seed: seed of the draws.

    References:
        Rubinstein, The Cross-Entropy Method for Combinatorial and Continuous Optimization, 1999,
        https://doi.org/10.1023/A:1010091220143; the least deviation, against a collapse, is that of Szita, Lorincz,
        Learning Tetris Using the Noisy Cross-Entropy Method, 2006, https://doi.org/10.1162/neco.2006.18.12.2936; the
        weights are those of Hansen, The CMA Evolution Strategy: A Tutorial, 2016, https://arxiv.org/abs/1604.00772
    """

    def __init__(
        self,
        size: int,
        *,
        spread: float = SPREAD,
        least: float = 1.0,
        elite: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.mean, self.std = np.zeros(size), np.full(size, spread)
        self.least, self.elite = least, elite
        self._rng = np.random.default_rng(seed)

    def draw(self, count: int) -> Array:
        """Samples [count, size]; the first is the mean, so that the present best guess is always tried."""
        drawn = self.mean + self.std * self._rng.standard_normal((count, len(self.mean)))
        if count > 1:
            drawn[0] = self.mean
        return np.clip(drawn, -FARTHEST, FARTHEST)

    def learn(self, samples: Array, earned: Array) -> None:
        """Moves towards the best of the samples [count, size] by `earned` [count]; NaN is the worst.

        If all samples earned the same, nothing changes.
        """
        worth = np.where(np.isfinite(earned), earned, -np.inf)
        if (worth == worth[0]).all():
            return
        order = np.argsort(-worth, kind="stable")
        best = samples[order[: max(2, math.ceil(self.elite * len(samples)))]]
        weights = np.log(len(best) + 0.5) - np.log(np.arange(1, len(best) + 1))
        self.mean = np.average(best, axis=0, weights=weights)
        spread = np.sqrt(np.average((best - self.mean) ** 2, axis=0, weights=weights))
        self.std = np.maximum(spread, self.least)


class Cem(Scheduled):
    """Learns a `Schedule`; each student trains with its own schedule from beginning to end.

    A generation tries as many schedules as there are students side by side, at least `LEAST_POPULATION`. Each one is
    compared with the others of its round, because these learn from the same batches. Several settings come in turn; a
    generation then tries the same schedules in some of them, and the policy moves only half as far from weight 1 as the
    search. If the best schedules of settings differ, this keeps most of the gains and loses less elsewhere.

    Args:
        env: the students; its action space is `Box(0, 1)`, as `ackd.mdp.action_spaces.Weights`.
        decisions: number of decisions in an episode.
        episodes: students in all.
        settings: number of settings.
        knots: number of knots of the schedule.
        start: a schedule to begin from; all weights 1 if None.
        spread: standard deviation at the start, in doublings.
        guarded: learn a `ProbeRule`; if its probe selects the labels alone, the schedule learns nothing.
        seed: seed of the draws; it also seeds the environments.
        curves: where the learned schedule is drawn.
    """

    def __init__(
        self,
        env: VecEnv,
        *,
        decisions: int,
        episodes: int,
        settings: int = 1,
        knots: int = KNOTS,
        start: Schedule | None = None,
        spread: float = SPREAD,
        guarded: bool = False,
        seed: int = 0,
        curves: Curves | None = None,
    ) -> None:
        env.seed(seed)
        self.env, self.decisions, self.knots, self.settings = env, decisions, knots, settings
        self.made: type[Schedule] = ProbeRule if guarded else Schedule
        self.actor = start or self.made(knots)
        self.spread, self.seed = spread, seed
        rounds = max(episodes // env.num_envs, 1)
        # rounds in a generation: repeats of the same schedules in several settings, parts with different schedules
        self.repeats = 1 if settings == 1 else max(min(settings, rounds // MOST_GENERATIONS), 1)
        self.parts = max(-(-LEAST_POPULATION // env.num_envs), 1)
        self._curves = curves or Curves()
        self.seen: set[str] = set()  # families
        self.history: list[tuple[Array, Array]] = []  # samples and their rewards in each generation

    def learn(self, decisions: int) -> None:
        """Trains students for `decisions` decisions, counted over all environments; learns after each generation."""
        observation = self.env.reset()
        assert isinstance(observation, dict)
        search = Distribution(self.knots * len(FAMILIES), spread=self.spread, seed=self.seed)
        search.mean = self.actor.values.double().numpy().reshape(-1)
        rounds = max(decisions // (self.decisions * self.env.num_envs), 1)
        while rounds > 0:
            samples = search.draw(min(self.parts, rounds) * self.env.num_envs)
            earned = np.zeros(len(samples))
            for part in range(0, len(samples), self.env.num_envs):
                own = slice(part, part + self.env.num_envs)
                for _ in range(min(self.repeats, rounds)):
                    returns, observation = self._episode(observation, samples[own])
                    earned[own] += _standard(returns) if self.env.num_envs > 1 else returns
                    rounds -= 1
            search.learn(samples, earned)
            self.history.append((samples, earned))
            found = search.mean if self.settings == 1 else SEVERAL * search.mean
            self.actor = self.made(self.knots, completed(found.reshape(self.knots, -1), self.seen))
            self._draw(search)

    def _episode(self, observation: Observations, samples: Array) -> tuple[Array, Observations]:
        """The return of a student under each schedule, [N], and the first observation of the next episode."""
        self.seen |= set(families_in(observation))
        schedules = [self.made(self.knots, row.reshape(self.knots, -1)) for row in samples]
        useless = self.made is ProbeRule and bool(ProbeRule.overtaken(batch_of(observation)).all())
        earned, following = play(self.env, observation, schedules, self.decisions)
        return np.zeros_like(earned) if useless else earned, following

    def _draw(self, search: Distribution) -> None:
        learned = {
            f"train/schedule/{name}/knot_{knot}": float(weight)
            for name, weights in self.actor.weights().items()
            for knot, weight in enumerate(weights if name in self.seen else ())
        }
        self._curves.write("generation", len(self.history), {"train/spread": float(search.std.mean()), **learned})


LEAST_POPULATION = 8  # schedules in a generation
MOST_GENERATIONS = 8  # a generation repeats settings only as long as this many generations are possible


def _standard(returns: Array) -> Array:
    """Standardised returns, because settings differ in the spread of their students' returns."""
    spread = float(returns.std())
    return (returns - returns.mean()) / spread if spread > 0 else np.zeros_like(returns)
