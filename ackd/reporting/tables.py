"""The Markdown tables of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ackd.agents.card import Card
from ackd.knowledge import NAMES
from ackd.reporting import comparison
from ackd.reporting.statistics import break_even
from ackd.runs.log import Cell
from ackd.types import decimals


def tables(cells: list[dict[str, Any]], learned: Mapping[str, Card] | None = None) -> str:
    """All tables in Markdown: by task, over tasks, and the cost of learning."""
    rows = [_cell(cell) for cell in cells]
    parts = [tabulate(rows), *_fronts(rows), *_divided(cells), *_overall(rows), *_prices(cells, learned or {})]
    return "\n\n".join(parts)


HEADER = ("task", "policy", "metric", "dev score, mean (min to max)", "teacher", "reward", "FLOPs", "seconds", "seeds")


def tabulate(cells: Sequence[Cell]) -> str:
    """A Markdown table of the `summaries`."""
    first, *others = [f"| {' | '.join(row)} |" for row in (HEADER, *summaries(cells))]
    return "\n".join([first, f"|{'---|' * len(HEADER)}", *others])


def summaries(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """A row with the columns of `HEADER` per task and policy: means over seeds, smallest and largest score."""
    rows: list[tuple[str, ...]] = []
    for task, policy in dict.fromkeys((cell.task, cell.policy) for cell in cells):
        group = [cell for cell in cells if (cell.task, cell.policy) == (task, policy)]
        scores = [cell.score for cell in group if cell.score is not None]
        form = f".{decimals(group[0].metric)}f"
        score = "diverged"
        if scores:
            mean, least, most = (format(one, form) for one in (sum(scores) / len(scores), min(scores), max(scores)))
            score = f"{mean} ({least} to {most})"
        if scores and len(scores) < len(group):
            score += f", {len(group) - len(scores)} diverged"
        rewards = [cell.reward for cell in group if cell.reward is not None]
        reward = f"{sum(rewards) / len(rewards):.3f}" if len(rewards) == len(group) else ""
        flops, seconds = (sum(getattr(one, name) for one in group) / len(group) for name in ("flops_share", "seconds"))
        figures = (format(group[0].teacher, form), reward, f"{flops:.0%}", f"{seconds:.1f}", str(len(group)))
        rows.append((task, policy, group[0].metric, score, *figures))
    return rows


def _fronts(cells: Sequence[Cell]) -> list[str]:
    """The Pareto front of each task; empty for a single policy."""
    if len(comparison.names(cells, "policy")) < 2:
        return []
    lines = [
        "The Pareto front, cheapest first: no other policy has both a better mean score and fewer FLOPs.",
        "",
        "| task | policies |",
        "|---|---|",
    ]
    lines += [f"| {task} | {', '.join(front)} |" for task, front in comparison.fronts(cells).items()]
    return ["\n".join(lines)]


def _divided(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on tasks that use a part of dev for rewards; the scores exclude this part."""
    known = [(cell["task"], cell.get("reward_from", "train"), cell.get("dev_examples")) for cell in cells]
    lines = [
        f"{task}: rewards are measured on a part of dev ({source}), and scores on the other {count} examples."
        for task, source, count in dict.fromkeys(known)
        if source != "train"
    ]
    return ["\n".join(lines)] if lines else []


def _overall(cells: Sequence[Cell]) -> list[str]:
    """The table over all tasks; only notes for a single policy or too few seeds for an interval."""
    both = comparison.compare(cells)
    if len(both.scores) < 2:
        return list(both.notes)
    means, better, above = comparison.aggregates(both), comparison.improvements(both), comparison.above(both)
    closed = comparison.gaps_closed(both, [name for name in both.scores if _static(name)])
    form = f"+.{max(decimals(cell.metric) for cell in cells)}f"
    lines = [
        f"Over {len(both.tasks)} task{'s' * (len(both.tasks) > 1)} ({both.scale}): interquartile mean with its 95 % "
        "bootstrap interval, points above `all` on the same seeds with their 95 % interval after Student, probability "
        "of beating `all`, and the share of the gap from the single best static policy to the best static one of each "
        "task, both chosen on the other seeds.",
        "",
        "| policy | score | points above all | beats all | gap closed |",
        "|---|---|---|---|---|",
    ]
    for name, value in means.items():
        gap = f"{closed[name]:.2f}" if name in closed else ""
        points = format(above[name], form) if name in above else ""
        chance = f"{better[name]:.3f}" if name in better else ""
        lines.append(f"| {name} | {value:.3f} | {points} | {chance} | {gap} |")
    if len(both.tasks) > 1 and not closed:
        lines += [
            "",
            "No gap to close: the best static policies by task do not surely beat the best one over all of them.",
        ]
    return ["\n".join(lines), *both.notes]


def _prices(cells: Sequence[Mapping[str, Any]], learned: Mapping[str, Card]) -> list[str]:
    """The cost of learned policies, in runs, and the number of reuses that pay it back in saved FLOPs."""
    lines = []
    for name, card in learned.items():
        mine = [cell for cell in cells if cell["policy"] == name]
        steps = card.cost.get("student_steps")
        if not mine or not steps:
            continue
        runs = steps / mine[0]["steps"]
        saved = 1 - float(np.mean([cell["flops_share"] for cell in mine]))
        reuses = break_even(runs, max(saved, 0.0))
        paid = "it saves no FLOPs"
        if math.isfinite(reuses):
            paid = f"the FLOPs that it saves against `all` pay for that after {math.ceil(reuses)} reuses"
        lines.append(f"{name}: learning took {runs:.1f} runs of {mine[0]['steps']} steps; {paid}.")
    return ["\n".join(lines)] if lines else []


def _static(name: str) -> bool:
    """Whether a policy is a fixed subset."""
    return name in ("labels", "all") or {part.split("@")[0] for part in name.split("+")} <= set(NAMES)


def _cell(cell: Mapping[str, Any]) -> Cell:
    return Cell(
        task=cell["task"],
        policy=cell["policy"],
        seed=cell["seed"],
        metric=cell["metric"],
        score=cell["dev_score"],
        teacher=cell["teacher_score"],
        reward=cell["reward"],
        flops_share=cell["flops_share"],
        seconds=cell["seconds"],
    )
