"""The tables that an evaluation prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ackd import comparison
from ackd.agents.card import Card
from ackd.knowledge import NAMES
from ackd.runlog import Cell
from ackd.statistics import Interval, break_even


def tables(cells: list[dict[str, Any]], learned: Mapping[str, Card] | None = None) -> str:
    """All of them in Markdown: by task, over tasks, and what learning cost."""
    parts = [tabulate(cells), *_overall(cells), *_prices(cells, learned or {})]
    return "\n\n".join(parts)


def tabulate(cells: list[dict[str, Any]]) -> str:
    """A Markdown table: a row for each task and policy, mean over seeds with the smallest and largest."""
    lines = [
        "| task | policy | metric | dev score, mean (min to max) | teacher | reward | FLOPs | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, policy in dict.fromkeys((cell["task"], cell["policy"]) for cell in cells):
        group = [cell for cell in cells if (cell["task"], cell["policy"]) == (task, policy)]
        scores = [cell["dev_score"] for cell in group if cell["dev_score"] is not None]
        score = "diverged"
        if scores:
            score = f"{sum(scores) / len(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"
            if len(scores) < len(group):
                score += f", {len(group) - len(scores)} diverged"
        flops, seconds = (sum(cell[name] for cell in group) / len(group) for name in ("flops_share", "seconds"))
        rewards = [cell["reward"] for cell in group]
        reward = "" if None in rewards else f"{sum(rewards) / len(rewards):.3f}"
        first = group[0]
        lines.append(
            f"| {task} | {policy} | {first['metric']} | {score} | {first['teacher_score']:.2f} "
            f"| {reward} | {flops:.0%} | {seconds:.1f} | {len(group)} |"
        )
    return "\n".join(lines)


def _overall(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each policy over all tasks; nothing where there is one policy only, or too few seeds to speak of an interval."""
    rows = [_cell(cell) for cell in cells]
    both = comparison.compare(rows)
    if len(both.scores) < 2:
        return list(both.notes)
    means, better = comparison.aggregates(both), comparison.improvements(both)
    closed = comparison.gaps_closed(both, [name for name in both.scores if _static(name)])
    lines = [
        f"Over {len(both.tasks)} task{'s' * (len(both.tasks) > 1)} ({both.scale}): interquartile mean with its 95 % "
        "bootstrap interval, probability of beating `all`, and the share of the gap from the single best static "
        "policy to the best static one of each task, both chosen on the other seeds.",
        "",
        "| policy | score | beats all | gap closed |",
        "|---|---|---|---|",
    ]
    for name, value in means.items():
        gap = f"{closed[name]:.2f}" if name in closed else ""
        lines.append(f"| {name} | {_shown(value)} | {_shown(better[name]) if name in better else ''} | {gap} |")
    if len(both.tasks) > 1 and not closed:
        lines += [
            "",
            "No gap to close: the best static policies by task do not surely beat the best one over all of them.",
        ]
    return ["\n".join(lines), *both.notes]


def _prices(cells: Sequence[Mapping[str, Any]], learned: Mapping[str, Card]) -> list[str]:
    """What learned policies cost, in runs, and after how many reuses the FLOPs that they save have paid for it."""
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


def _shown(value: Interval) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


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
