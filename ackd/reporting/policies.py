"""A table of the named policies: knowledge types, scores, and cost of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ackd.agents import library
from ackd.agents.card import Card
from ackd.agents.library import Entry
from ackd.agents.model_card import scores, shown_cost
from ackd.errors import InputError

COLUMNS = ("name", "where", "algorithm", "knowledge", "trained on", "score", "cost")
SHOWN = 3  # most names in a cell


def policy_rows() -> list[tuple[str, ...]]:
    """A row with the `COLUMNS` for each named policy; for a damaged one its name, place and error."""
    return [_row(entry) for entry in library.entries()]


def policy_table() -> str:
    """The rows as aligned text; if there is no policy, a hint how to get one."""
    policies = policy_rows()
    if not policies:
        return f"there are no policies yet: `ackd policies import RUN --name NAME` puts one into {library.home()}"
    rows = [COLUMNS, *policies]
    widths = [max(len(row[column]) for row in rows if len(row) > column + 1) for column in range(len(COLUMNS) - 1)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    *cells, last = row
    return "  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)), last])


def _row(entry: Entry) -> tuple[str, ...]:
    name = entry.name if entry.name.isprintable() else ascii(entry.name)
    where = "shipped" if entry.shipped else "yours"
    try:
        return name, where, *_cells(entry.card())
    except InputError as error:
        return name, where, f"damaged: {error}"


def _cells(card: Card) -> tuple[str, ...]:
    tasks = [task for instance in card.instances if isinstance(task := instance.get("task"), str)]
    trained = _few(task if task.isprintable() else ascii(task) for task in tasks)
    return card.algorithm, _few(card.knowledge), trained, _score(card.metrics), shown_cost(card.cost) or "-"


def _score(metrics: Mapping[str, Any]) -> str:
    """The recorded reward and first dev score; without both, the first number in the metrics."""
    numbers = scores(metrics)
    if not numbers:
        return "-"
    dev = [f"dev {value:.1%}" for name, value in numbers.items() if name.startswith("dev.")]
    parts = [f"reward {value:.3g}" for name, value in numbers.items() if name == "reward"] + dev[:1]
    first, value = next(iter(numbers.items()))
    return ", ".join(parts) or f"{ascii(first)[1:-1]:.20} {value:.4g}"


def _few(names: Iterable[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:SHOWN]) + f" +{len(different) - SHOWN}" * (len(different) > SHOWN) or "-"
