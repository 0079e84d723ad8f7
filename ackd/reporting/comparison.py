"""Compares policies, from the table of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ackd.reporting.statistics import (
    Interval,
    gap_closed,
    iqms,
    paired_difference,
    performance_profile,
    probabilities_of_improvement,
    stratified_bootstrap,
)
from ackd.runs.log import Cell
from ackd.types import shown_score

Array = NDArray[np.float64]

BASELINE, FLOOR, ORACLE = "all", "labels", "lookahead"
MIN_GAP = 0.01  # smallest gap between teacher and labels-only students that gives a scale: a share, or nats


@dataclass(frozen=True)
class Comparison:
    """Scores and returns of each policy as arrays [runs, tasks], for complete tasks and policies.

    `scale` explains normalised scores; `notes` lists what was left out and why.
    """

    tasks: Sequence[str]
    scores: Mapping[str, Array]  # normalised
    percent: Mapping[str, Array]
    returns: Mapping[str, Array]  # only if rewards use the whole reward split
    scale: str
    notes: Sequence[str] = ()


def names(cells: Sequence[Cell], column: str) -> list[str]:
    """The tasks or policies in table order."""
    return list(dict.fromkeys(getattr(cell, column) for cell in cells))


def compare(cells: Sequence[Cell]) -> Comparison:
    """Builds the comparison from tasks that all policies finished, and policies without a diverged training."""
    there = {(cell.task, cell.policy, cell.seed): cell for cell in cells}
    policies = names(cells, "policy")
    # tasks may differ in seeds, but not in their number; every policy needs all seeds of a task
    seeds = {task: sorted({cell.seed for cell in cells if cell.task == task}) for task in names(cells, "task")}
    runs = max((len(those) for those in seeds.values()), default=0)
    notes, tasks = [], []
    for task, those in seeds.items():
        if len(those) == runs and all((task, policy, seed) in there for policy in policies for seed in those):
            tasks.append(task)
        else:
            notes.append(f"{task} is left out of what is taken over tasks: not every policy has finished it.")
    kept = []
    for policy in policies:
        if any(there[task, policy, seed].score is None for task in tasks for seed in seeds[task]):
            notes.append(f"{policy} is left out of what is taken over tasks: a training of it diverged.")
        else:
            kept.append(policy)

    def matrix(policy: str, value: Callable[[Cell], float | None]) -> Array:
        rows = [[value(there[task, policy, seeds[task][run]]) for task in tasks] for run in range(runs)]
        return np.array(rows, dtype=np.float64)

    percent = {policy: matrix(policy, lambda cell: cell.score) for policy in kept if tasks}
    earned = {policy: matrix(policy, lambda cell: cell.reward) for policy in kept if tasks}
    returns = {policy: values for policy, values in earned.items() if not np.isnan(values).any()}
    teachers = np.array([there[task, policies[0], seeds[task][0]].teacher for task in tasks])
    metrics = [there[task, policies[0], seeds[task][0]].metric for task in tasks]
    least = np.array([shown_score(metric, MIN_GAP) for metric in metrics])
    scores, scale = _normalised(percent, teachers, least)
    if percent and not scores:
        notes.append("A teacher's score is not above 0: scores of different tasks have no common scale.")
    return Comparison(tasks, scores, percent, returns, scale, notes)


def _normalised(percent: Mapping[str, Array], teachers: Array, least: Array) -> tuple[dict[str, Array], str]:
    """Scores on a scale common to all tasks, and its description; empty if there is no such scale.

    `least` are the smallest gaps between teachers and students of the labels alone that give a scale, [tasks].
    """
    if FLOOR in percent:
        floors = percent[FLOOR].mean(0)
        if (teachers - floors >= least).all():
            scaled = {policy: (scores - floors) / (teachers - floors) for policy, scores in percent.items()}
            return scaled, "0 is what learning from labels alone reaches on average, 1 is the teacher"
    if (teachers <= 0).any():
        return {}, ""
    return {policy: scores / teachers for policy, scores in percent.items()}, "score as a share of the teacher's"


def mean_interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """The mean over seeds with its 95 % bootstrap interval."""
    column = np.array(scores, dtype=np.float64)[:, None]
    rng = np.random.default_rng(seed)
    return stratified_bootstrap(lambda drawn: drawn[..., 0].mean(-1), column, rng=rng, vectorized=True)


def aggregates(comparison: Comparison, seed: int = 0) -> dict[str, Interval]:
    """Each policy's interquartile mean of normalised scores."""
    rng = np.random.default_rng(seed)
    return {
        policy: stratified_bootstrap(iqms, scores, rng=rng, vectorized=True)
        for policy, scores in comparison.scores.items()
    }


def improvements(comparison: Comparison, seed: int = 0) -> dict[str, Interval]:
    """The probability that each policy beats transferring everything; empty if `all` was not evaluated."""
    if BASELINE not in comparison.percent:
        return {}
    rng, baseline = np.random.default_rng(seed), comparison.percent[BASELINE]
    return {
        policy: stratified_bootstrap(probabilities_of_improvement, scores, baseline, rng=rng, vectorized=True)
        for policy, scores in comparison.percent.items()
        if policy != BASELINE
    }


def above(comparison: Comparison, other: str = BASELINE) -> dict[str, Interval]:
    """The points of each policy above another one on the same seeds; empty if that one was not evaluated."""
    return _differences(comparison.percent, other)


def oracle_gaps(comparison: Comparison) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Each policy's score and return minus the oracle's on the same seeds; empty without an oracle."""
    return _differences(comparison.percent, ORACLE), _differences(comparison.returns, ORACLE)


def _differences(values: Mapping[str, Array], other: str) -> dict[str, Interval]:
    if other not in values:
        return {}
    return {name: paired_difference(mine, values[other]) for name, mine in values.items() if name != other}


def gaps_closed(comparison: Comparison, statics: Sequence[str], seed: int = 0) -> dict[str, float]:
    """The share of the gap that each policy closes, from the single best static to the best static per task.

    For each run, both are chosen on the other runs, because the best of several may be best by chance. Empty if the
    gap may be chance (`_chance`, 5 %) or there is only one run, because a share of noise has no meaning.
    """
    stacked = np.stack([comparison.scores[name] for name in statics]) if statics else np.empty((0, 0, 0))
    count, runs, _ = stacked.shape
    if min(count, runs) < 2 or _chance(stacked, np.random.default_rng(seed)) > 0.05:
        return {}
    others = (stacked.sum(1, keepdims=True) - stacked) / (runs - 1)
    bests = others.mean(2, keepdims=True).argmax(0)[None], others.argmax(0)[None]  # [1, runs, 1 or tasks]
    single, virtual = (float(np.take_along_axis(stacked, best, 0).mean()) for best in bests)
    closed = {name: gap_closed(float(scores.mean()), single, virtual) for name, scores in comparison.scores.items()}
    return {name: share for name, share in closed.items() if share is not None}


def _chance(scores: Array, rng: np.random.Generator, shuffles: int = 999) -> float:
    """The p-value of the gap in scores [policies, runs, tasks] if policies were as good on each task as on average.

    A permutation test: the residuals after the policies' means are permuted over policies, within each run and task.

    References:
        Freedman and Lane, A Nonstochastic Interpretation of Reported Significance Levels, 1983,
        https://doi.org/10.1080/07350015.1983.10509354
    """

    def gap(values: Array) -> float:
        means = values.mean(1)
        return float(means.max(0).mean() - means.mean(1).max())

    means = scores.mean((1, 2), keepdims=True)
    rest, found, larger = scores - means, gap(scores), 0
    for _ in range(shuffles):
        drawn = rng.permuted(rest, axis=0)
        larger += gap(means + drawn - drawn.mean((1, 2), keepdims=True)) >= found - 1e-12
    return (1 + larger) / (1 + shuffles)


def profiles(comparison: Comparison, points: int = 201) -> tuple[Array, dict[str, Array]]:
    """Thresholds that span all normalised scores, and each policy's share of runs above them."""
    everything = np.concatenate([scores.ravel() for scores in comparison.scores.values()])
    margin = 0.05 * max(float(np.ptp(everything)), 0.1)
    thresholds = np.linspace(everything.min() - margin, everything.max() + margin, points)
    return thresholds, {name: performance_profile(scores, thresholds) for name, scores in comparison.scores.items()}


def fronts(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """For each task the policies that no other beats in both mean score and mean FLOPs share, cheapest first.

    Policies with a diverged training are left out.
    """
    found = {}
    for task in names(cells, "task"):
        groups: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.task == task:
                groups.setdefault(cell.policy, []).append(cell)
        scores = {
            policy: sum(cell.score for cell in those if cell.score is not None) / len(those)
            for policy, those in groups.items()
            if all(cell.score is not None for cell in those)
        }
        costs = [sum(cell.flops_share for cell in groups[policy]) / len(groups[policy]) for policy in scores]
        found[task] = [list(scores)[place] for place in pareto_front(costs, list(scores.values()))]
    return found


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """The indices of the points on the Pareto front, cheapest first.

    A point is on the front if no different point has at most its cost and at least its score.
    """
    points = list(zip(costs, scores, strict=True))
    front = [
        place
        for place, (cost, score) in enumerate(points)
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    ]
    return sorted(front, key=lambda place: points[place])
