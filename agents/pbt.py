"""Population based training of the terms' weights over a cohort, and the best lineage's schedule as a policy.

N students learn side by side, each with its own weights. After every phase the worst students are replaced by copies of
the best, and the weights of the copies change a little. The result is the history of the best student's weights: a
schedule for an open-loop replay on new seeds. The student itself is not used, because it was the luckiest of many.

The rule and its numbers are those of Ray Tune's synchronous `PopulationBasedTraining`. Ray itself has a process for
each student, with its own teacher and data. Every exchange needs checkpoints on disk and new processes: half a minute a
phase for four students that learn nothing, on two cores. Here a copy is a row of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ackd.agents.best_schedule import LOGS
from ackd.agents.policy import Observations
from ackd.agents.rules import PROGRESS, Bits, Rule
from ackd.errors import InputError
from ackd.mdp.action_spaces import entries_of, selected, weights_of
from ackd.mdp.observations import FAMILIES, FEATURES
from ackd.types import Selection

IS_FAMILY = [FEATURES.index(f"is_{family}") for family in FAMILIES]

Logs = NDArray[np.float64]  # [..., families], log2 of weights; below 2^-2.5 a family is off
Scores = Sequence[float]


class Population(Protocol):
    """The students' interface; `ackd.cohort.cohort.Cohort` implements it."""

    @property
    def steps(self) -> int:
        """The budget in optimizer steps."""
        ...

    def reset(self, seeds: Sequence[int]) -> None:
        """Begins a new student for each seed."""
        ...

    def advance(self, selections: Sequence[Selection], steps: int) -> Any:
        """Trains each student under its own selection."""
        ...

    def inherit(self, parents: Sequence[int]) -> None:
        """Replaces each student by a copy of its parent, which may be itself."""
        ...


@dataclass(frozen=True)
class Evolution:
    """The rule by which students are copied and weights change.

    Args:
        quantile: share of the students that are replaced, and share of those that are copied.
        resample: probability that a copy's weight is drawn anew, log-uniform from 2^-3 to 2^3, instead of multiplied.
        factors: a weight is multiplied by one of them.

    Raises:
        InputError: if a share, a probability or a factor is out of range.

    References:
        Jaderberg et al., Population Based Training of Neural Networks, 2017, https://arxiv.org/abs/1711.09846:
        truncation selection (with a quantile of .2), perturbation and resampling; the numbers are Ray Tune's.
    """

    quantile: float = 0.25
    resample: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.2)

    def __post_init__(self) -> None:
        if not (0 <= self.quantile <= 0.5 and 0 <= self.resample <= 1 and self.factors and min(self.factors) > 0):
            raise InputError(
                f"a quantile of {self.quantile}, a resampling of {self.resample} and the factors {self.factors} cannot "
                "be: give at most 0.5, at most 1, and factors above 0"
            )

    def exploit(self, scores: Scores, rng: np.random.Generator) -> list[int]:
        """The index of each student's parent: the student itself, or for the worst ones, one of the best.

        A score that is not finite is the worst; such a student is never a parent.
        """
        values = np.where(np.isfinite(scores), scores, -np.inf)
        count = min(math.ceil(len(values) * self.quantile), len(values) // 2)
        order = np.argsort(values, kind="stable")
        parents, best = list(range(len(values))), [i for i in order[len(values) - count :] if np.isfinite(values[i])]
        for i in order[:count] if best else ():
            parents[i] = int(rng.choice(best))
        return parents

    def explore(self, logs: Logs, rng: np.random.Generator) -> Logs:
        """Randomly changed weights, within `LOGS`."""
        changed = logs + np.log2(rng.choice(self.factors, logs.shape))
        drawn = rng.uniform(*LOGS, logs.shape)
        return np.clip(np.where(rng.random(logs.shape) < self.resample, drawn, changed), *LOGS)


@dataclass(frozen=True)
class Lineage:
    """The history of the student that was best in the end."""

    families: tuple[str, ...]  # names of the columns
    logs: Logs  # [phases, families]
    starts: tuple[float, ...]  # the progress at which each phase begins
    ancestors: tuple[int, ...]  # index of its ancestor in each phase
    scores: tuple[tuple[float, ...], ...]  # [phases][students], after each phase

    def policy(self) -> Rule:
        """The open-loop schedule with actions of `ackd.mdp.action_spaces.Weights`; a family's terms have its weight."""
        table = np.zeros((len(self.starts), len(FAMILIES)))
        table[:, [FAMILIES.index(family) for family in self.families]] = np.exp2(self.logs)

        def choose(observation: Observations, mask: Bits) -> NDArray[np.float64]:
            features = np.asarray(observation["knowledge"]).reshape(*mask.shape, len(FEATURES))
            progress = np.asarray(observation["globals"], np.float64)[..., PROGRESS]
            phases = np.searchsorted(self.starts, progress + 1e-6, side="right") - 1
            weights: NDArray[np.float64] = (features[..., IS_FAMILY] * table[phases][..., None, :]).sum(-1)
            return weights

        return Rule(choose, "weights")


def evolve(
    population: Population,
    families: Mapping[str, str],
    score: Callable[[], Scores],
    seeds: Sequence[int],
    *,
    interval: int,
    seed: int = 0,
    evolution: Evolution = Evolution(),
) -> Lineage:
    """Trains the students once; returns the history of the one that is best in the end.

    Args:
        population: the students.
        families: family of each term (labels and knowledge types) by name; terms of one family have one weight.
        score: returns each student's present score; called after every phase; more is better.
        seeds: seeds of the students.
        interval: optimizer steps in a phase.
        seed: seed of the initial weights and of all changes. The first student begins with weight 1 throughout.
        evolution: rule by which students are copied and weights change.

    Raises:
        InputError: if there are fewer than 2 students, no step in a phase, or no student has a score in the end.
    """
    if len(seeds) < 2 or interval < 1:
        raise InputError(
            f"{len(seeds)} students in phases of {interval} steps are no population: give at least 2 and 1"
        )
    rng, columns = np.random.default_rng(seed), [family for family in FAMILIES if family in families.values()]
    logs = rng.uniform(*LOGS, (len(seeds), len(columns)))
    logs[0] = 0.0
    indices = [columns.index(family) for family in families.values()]
    history: list[Logs] = []
    scores: list[tuple[float, ...]] = []
    parents = [list(range(len(seeds)))]
    population.reset(seeds)
    starts = range(0, population.steps, interval)
    for start in starts:
        if start:
            parents.append(evolution.exploit(scores[-1], rng))
            population.inherit(parents[-1])
            heirs = [i for i, parent in enumerate(parents[-1]) if parent != i]
            logs = logs[parents[-1]]
            logs[heirs] = evolution.explore(logs[heirs], rng)
        history.append(logs)
        weights = weights_of(entries_of(np.exp2(logs[:, indices])))
        population.advance([selected(tuple(families), row) for row in weights], interval)
        scores.append(tuple(float(value) for value in score()))
    last = np.where(np.isfinite(scores[-1]), scores[-1], -np.inf)
    if not np.isfinite(last).any():
        raise InputError("every student of the population diverged: lower the learning rate")
    ancestors = [int(np.argmax(last))]
    for before in reversed(parents[1:]):
        ancestors.insert(0, before[ancestors[0]])
    chosen = np.stack([rows[i] for rows, i in zip(history, ancestors, strict=True)])
    return Lineage(
        tuple(columns), chosen, tuple(start / population.steps for start in starts), tuple(ancestors), tuple(scores)
    )
