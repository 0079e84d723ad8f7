"""Pictures that compare policies; each function turns plain data into a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ackd.reporting.pictures import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    PALE,
    PERCENT,
    draw_map,
    figure_of,
    name_progress,
    shortened,
    styled,
)
from ackd.reporting.statistics import Interval
from ackd.types import unit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TaskScores:
    """The dev scores of one task in percent: the teacher, each policy's students, and the interval of their mean."""

    task: str
    metric: str
    teacher: float
    scores: Mapping[str, Sequence[float]]
    intervals: Mapping[str, Interval]
    flops: Mapping[str, float]  # mean, in percent of transferring everything
    front: Sequence[str]  # the policies on the Pareto front, cheapest first


@styled
def policy_scores(tasks: Sequence[TaskScores]) -> Figure:
    """A panel per task and a row per policy: a dot per seed, the mean with its interval, and the teacher as a line."""
    policies = list(dict.fromkeys(policy for one in tasks for policy in one.scores))
    grid = _grid(tasks, 0.3 * len(policies) + 0.9)
    figure: Figure = grid[0].figure  # type: ignore[assignment]
    for axes, one in zip(grid, tasks, strict=True):
        _seeds(axes, one, policies)
        axes.set_title(one.task)
    _legend(figure, grid[0])
    return figure


@styled
def weights_beside_scores(table: Array, terms: Sequence[str], edges: Array, one: TaskScores, titles: str) -> Figure:
    """A policy's weights, [terms, phases], beside the scores of all policies.

    Args:
        table: mean weights.
        terms: names of the rows.
        edges: start and end of the phases, in percent.
        one: the scores.
        titles: titles of both panels, separated by a line break.
    """
    figure = Figure(figsize=(9.6, 0.3 * len(one.scores) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 4))
    draw_map(left, table, terms, edges)
    name_progress(left, margin=0)
    _seeds(right, one, list(one.scores))
    right.set_yticks(range(len(one.scores)), shortened(list(one.scores)))
    for axes, title in zip((left, right), titles.splitlines(), strict=True):
        axes.set_title(title)
    _legend(figure, right)
    return figure


def _seeds(axes: Axes, one: TaskScores, policies: Sequence[str]) -> None:
    """Draws a row of scores for each policy."""
    axes.axvline(one.teacher, color=COLOURS[1], linestyle=DASHES[1], linewidth=1.2, label="teacher")
    for row, policy in enumerate(policies):
        values = one.scores.get(policy, ())
        axes.plot(values, [row - 0.24] * len(values), "o", color=COLOURS[5], markersize=5, alpha=0.8, label="a seed")
    _intervals(axes, {name: one.intervals.get(name) for name in policies}, label="mean, 95 % interval")
    axes.set_xlabel(f"dev {one.metric} ({unit(one.metric)})")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(list(once.values()), list(once), loc="outside lower center", ncols=3)


def _grid(tasks: Sequence[Any], height: float) -> list[Axes]:
    """Makes a figure with a panel for each task, two in a row."""
    columns = min(len(tasks), 2)
    rows = -(-len(tasks) // columns)
    figure = figure_of(height * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(tasks) :]:
        axes.remove()
    return list(panels.flat[: len(tasks)])


def _intervals(axes: Axes, rows: Mapping[str, Interval | None], label: str = "") -> None:
    """Draws each interval as a diamond with whiskers; row names are at the left, from top to bottom."""
    for row, interval in enumerate(rows.values()):
        if interval is not None:
            axes.plot([interval.low, interval.high], [row, row], color=INK, linewidth=1.6, solid_capstyle="butt")
            axes.plot([interval.value], [row], "D", color=INK, markersize=5, label=label)
    labels = shortened(list(rows)) if axes.get_subplotspec().is_first_col() else [""] * len(rows)  # type: ignore[union-attr]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="both")


@styled
def score_against_flops(tasks: Sequence[TaskScores]) -> Figure:
    """A panel per task: each policy's mean score with interval against its FLOPs; the front is a stepped line."""
    grid = _grid(tasks, 3.0)
    figure: Figure = grid[0].figure  # type: ignore[assignment]
    policies = list(dict.fromkeys(policy for one in tasks for policy in one.intervals))
    labels = shortened(policies)
    for axes, one in zip(grid, tasks, strict=True):
        there = list(one.intervals)
        costs, scores = [one.flops[name] for name in there], [one.intervals[name].value for name in there]
        axes.plot(
            [one.flops[name] for name in one.front], [one.intervals[name].value for name in one.front],
            drawstyle="steps-post", color=GREY, linewidth=1.2, zorder=1, label="Pareto front",
        )  # fmt: skip
        for name, cost, score in zip(there, costs, scores, strict=True):
            place, interval = policies.index(name), one.intervals[name]
            axes.vlines(cost, interval.low, interval.high, color=COLOURS[place % len(COLOURS)], linewidth=1.2, zorder=1)
            # Later markers are smaller, so that markers at the same place stay visible.
            size = 10 - 4 * place / max(len(policies) - 1, 1)
            axes.plot(
                [cost], [score], linestyle="", marker=MARKERS[place % len(MARKERS)], markersize=size,
                color=COLOURS[place % len(COLOURS)], markeredgecolor="white", markeredgewidth=0.5, label=labels[place],
            )  # fmt: skip
        axes.margins(0.12)
        axes.set_title(one.task)
        axes.set(xlabel="FLOPs, share of transferring all", ylabel=f"dev {one.metric} ({unit(one.metric)})")
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid()
    known = dict(pair[::-1] for axes in grid for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=3)
    return figure


@styled
def interval_rows(panels: Mapping[str, Mapping[str, Interval]], reference: float | None = None) -> Figure:
    """A panel per x label, with a row for each policy's value and interval; the reference is a line."""
    rows = max(len(intervals) for intervals in panels.values())
    figure = figure_of(0.32 * rows + 0.9)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, intervals) in zip(grid, panels.items(), strict=True):
        if reference is not None:
            axes.axvline(reference, color=COLOURS[1], linestyle=DASHES[1], linewidth=1.2)
        _intervals(axes, intervals)
        axes.set_xlabel(label)
    return figure


@styled
def performance_profiles(thresholds: Array, curves: Mapping[str, Array]) -> Figure:
    """Curves of the share of each policy's runs above each threshold."""
    figure = figure_of(3.3)
    axes = figure.add_subplot()
    for place, (label, curve) in enumerate(zip(shortened(list(curves)), curves.values(), strict=True)):
        axes.plot(
            thresholds, 100 * curve, label=label, color=COLOURS[place % len(COLOURS)],
            linestyle=DASHES[place % len(DASHES)], linewidth=2.4 - 1.2 * place / len(curves), drawstyle="steps-post",
        )  # fmt: skip
    axes.axhline(50, color=PALE, linewidth=1, zorder=0)
    axes.set(xlabel="normalised score", ylabel="runs that score more", ylim=(0, 104))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
