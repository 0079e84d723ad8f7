"""Searches for the best open-loop schedule with Optuna's TPE and successive halving.

A schedule has the log2 of a weight for each family of terms at some knots, which are spread evenly over the run;
between knots it is linear. Below `OFF` the family is not transferred. The caller trains the students.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError

if TYPE_CHECKING:
    from optuna.trial import Trial

LOGS = (-3.0, 3.0)  # range of the log2 of a weight
OFF = -2.5  # below it a family is off
HALVING = 3  # one in this many continues
RUNGS = (1, HALVING)  # numbers of students after which a schedule is compared with the others

Knots = NDArray[np.float64]  # [knots, families], log2 of weights
Run = Callable[[Sequence[Knots], Sequence[int]], Sequence[float]]


def best_schedule(
    run: Run,
    families: Sequence[str],
    students: int,
    seed: int = 0,
    *,
    knots: int = 3,
    side_by_side: int = 4,
) -> Knots:
    """Returns the schedule with the highest mean reward among those that passed every rung.

    Budgets grow in seeds, not in steps, because the reward halfway through a run predicts little about its end. Each
    schedule that TPE proposes trains one student; the best third so far train two more. The first schedule is weight 1
    throughout. All schedules have the same seeds.

    Args:
        run: trains students side by side, each with its own schedule and seed, and returns each student's reward;
            called with as many seeds as schedules.
        families: names of the columns.
        students: maximum number of students.
        seed: seed of the search; its students have the seeds `seed`, `seed + 1`, ...
        knots: rows of a schedule.
        side_by_side: maximum number of schedules at once; with more, TPE knows less about the latest ones.

    Raises:
        InputError: if a number is too small, or Optuna is not installed.
        ValueError: if `run` does not return a finite number for each student.

    References:
        Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Li et al., A System for Massively
        Parallel Hyperparameter Tuning, MLSys 2020, https://arxiv.org/abs/1810.05934: successive halving as in
        Optuna, https://optuna.readthedocs.io/en/stable/reference/generated/optuna.pruners.SuccessiveHalvingPruner.html
    """
    if min(students, knots, side_by_side, len(families)) < 1:
        raise InputError(
            f"{students} students, {side_by_side} at once, {knots} knots and {len(families)} families find no "
            "schedule: give at least 1 of each"
        )
    search = _Search(run, families, knots, seed)
    while search.trained < students:
        search.attempt(min(side_by_side, students - search.trained), students)
    return search.best()


class _Search:
    """Proposes schedules, and gives more students to the better ones."""

    def __init__(self, run: Run, families: Sequence[str], knots: int, seed: int) -> None:
        optuna = find_optuna()
        self.run, self.families, self.knots, self.seed = run, families, knots, seed
        self.trained = 0
        self.rewards: dict[int, list[float]] = {}  # by the number of a schedule; one reward for each seed so far
        self.schedules: dict[int, Knots] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=HALVING),
            )
        self.pruned = optuna.trial.TrialState.PRUNED
        self.study.enqueue_trial({self._name(knot, family): 0.0 for knot in range(knots) for family in families})

    def attempt(self, count: int, students: int) -> None:
        """Tries new schedules on the rungs, until they fail one or no students are left."""
        trials = [self.study.ask() for _ in range(count)]
        for trial in trials:
            self.schedules[trial.number], self.rewards[trial.number] = self._proposed(trial), []
        for rung in RUNGS:
            trials = self._climb(trials, rung, students)

    def best(self) -> Knots:
        """The schedule with the highest mean reward among those with the most students."""
        most = max(map(len, self.rewards.values()))
        means = {number: np.mean(those) for number, those in self.rewards.items() if len(those) == most}
        return self.schedules[max(means, key=lambda number: means[number])]

    def _climb(self, trials: Sequence[Trial], rung: int, students: int) -> list[Trial]:
        """Trains schedules up to `rung` students each, while any are left; returns those that continue."""
        pairs = [(one, place) for one in trials for place in range(len(self.rewards[one.number]), rung)]
        pairs = pairs[: students - self.trained]
        if pairs:
            schedules = [self.schedules[one.number] for one, _ in pairs]
            earned = [float(each) for each in self.run(schedules, [self.seed + place for _, place in pairs])]
            if len(earned) != len(pairs) or not all(map(math.isfinite, earned)):
                raise ValueError(f"{len(pairs)} students have to earn as many finite rewards, and they earned {earned}")
            self.trained += len(pairs)
            for (one, _), reward in zip(pairs, earned, strict=True):
                self.rewards[one.number].append(reward)
        return [one for one in trials if self._goes_on(one, rung)]

    def _goes_on(self, trial: Trial, rung: int) -> bool:
        """Reports a schedule's reward to the study; True if the schedule gets more students."""
        rewards = self.rewards[trial.number]
        if len(rewards) == rung:
            trial.report(float(np.mean(rewards)), rung)
            if rung == RUNGS[-1]:
                self.study.tell(trial, float(np.mean(rewards)))
                return False
            if not trial.should_prune():
                return True
        self.study.tell(trial, state=self.pruned)  # TPE uses its last reported reward
        return False

    def _proposed(self, trial: Trial) -> Knots:
        rows = [
            [trial.suggest_float(self._name(knot, family), *LOGS) for family in self.families]
            for knot in range(self.knots)
        ]
        return np.array(rows)

    def _name(self, knot: int, family: str) -> str:
        return f"{knot}.{family}"


def find_optuna() -> Any:
    """Imports Optuna and limits its log to warnings.

    Raises:
        InputError: if Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "the search for the best schedule needs Optuna, which is not installed: pip install 'ackd[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
