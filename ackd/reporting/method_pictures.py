"""Pictures of methods without decisions; each function turns plain data into a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ackd.reporting.pictures import COLOURS, DASHES, INK, MARKERS, PALE, figure_of, shortened, styled

Array = NDArray[np.float64]


@styled
def grid(
    table: Array, rows: Sequence[float], columns: Sequence[float], best: tuple[int, int] | None, labels: Sequence[str]
) -> Figure:
    """A map of numbers [rows, columns]; higher is darker, and a frame marks the best.

    Cells without a number are white with a cross.

    Args:
        table: the numbers.
        rows: values of the rows.
        columns: values of the columns.
        best: row and column of the best cell.
        labels: labels of rows, columns and numbers.
    """
    figure = figure_of(0.36 * len(rows) + 1.2)
    axes = figure.add_subplot()
    known = table[np.isfinite(table)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    span = max(high - low, 1e-9)
    mesh = axes.pcolormesh(table, cmap="Blues", vmin=low - 0.15 * span, vmax=high, edgecolors="white", linewidth=0.8)
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            sound = bool(np.isfinite(value))
            ink = "white" if sound and value > low + 0.55 * span else INK
            said = f"{value:.2f}" if sound else "X"
            axes.text(column + 0.5, row + 0.5, said, color=ink, ha="center", va="center", fontsize=8.5)
    if best is not None:
        axes.add_patch(Rectangle((best[1], best[0]), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.2, zorder=3))
    axes.set_xticks(np.arange(len(columns)) + 0.5, [f"{value:g}" for value in columns])
    axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{value:g}" for value in rows])
    axes.set(xlabel=labels[1], ylabel=labels[0])
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, label=labels[2], shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    return figure


@styled
def curves_side_by_side(
    panels: Mapping[str, Mapping[str, tuple[Array, Array]]], label: str, lines: Mapping[str, tuple[str, float]]
) -> Figure:
    """Panels of curves, each with an optional horizontal line.

    Args:
        panels: for each panel title, the curves (x, y) by name.
        label: label of the x axis, which has integers.
        lines: for a panel title, the name and height of its horizontal line.
    """
    figure = figure_of(3.1 if len(panels) == 1 else 2.9)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    short = dict(zip(names, shortened(names), strict=True))
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        if title in lines:
            said, height = lines[title]
            axes.axhline(height, color=COLOURS[1], linestyle=DASHES[1], linewidth=1.2, label=said)
        for name, (x, y) in curves.items():
            place = names.index(name)
            axes.plot(
                x, y, label=short[name], color=COLOURS[(place + 2 * (place > 0)) % len(COLOURS)],
                linestyle=DASHES[place % len(DASHES)], marker=MARKERS[place % len(MARKERS)] if len(x) <= 40 else "",
            )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(axis="y", color=PALE)
    handles = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    once = {said: handle for handle, said in handles}
    figure.legend(list(once.values()), list(once), loc="outside lower center", ncols=3)
    return figure
