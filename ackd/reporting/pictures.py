"""Pictures of a run; each function turns plain data into a matplotlib figure, without side effects."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from ackd.costs import PARTS
from ackd.mdp.action_spaces import DOUBLINGS
from ackd.reporting.trends import Band, running

Array = NDArray[np.float64]
Params = ParamSpec("Params")

WIDTH = 6.6  # inches
DPI = 200
# Okabe and Ito's colours for colour-blind readers; without yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#d9d9d9"
STYLE: Any = {  # Any, because matplotlib 3.11 has a type for these names and 3.9 has none
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "text.parse_math": False,  # names may contain dollar signs
}
# Colours of log2 weights: a tenth of the scale is grey for 0; the rest goes from yellow over green (1) to blue.
OFF = -DOUBLINGS - 0.1 * 2 * DOUBLINGS / 0.9
SCALE = ListedColormap([PALE] * 26 + [*colormaps["YlGnBu"](np.linspace(0, 1, 234))], "weights")
PERCENT = PercentFormatter(decimals=0)
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def styled(draw: Callable[Params, Figure]) -> Callable[Params, Figure]:
    """Decorator: draws with the style of the reports, independent of matplotlib's settings in this process."""

    @wraps(draw)
    def drawn(*args: Params.args, **kwargs: Params.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # for characters that the font lacks
        figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def figure_of(height: float) -> Figure:
    """An empty figure with the standard width."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def clipped(title: str, length: int = 84) -> str:
    """Shortens a title to fit above a picture."""
    return shortened([title], length)[0]


def shortened(names: Sequence[str], length: int = 26) -> list[str]:
    """Shortens names to fit beside an axis, but keeps them different.

    It keeps beginnings and ends, or the ends alone if that is needed to tell the names apart.
    """
    for head in (length // 2 - 1, 0):
        short = [n if len(n) <= length else f"{n[:head]}…{n[head + 1 - length :]}" for n in names]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


@styled
def reward_curve(
    returns: Sequence[float],
    diverged: Sequence[bool],
    band: Band,
    final: float | None = None,
    label: str = "return",
    trained: str = "trained policy",
) -> Figure:
    """The return of each episode, the running mean with its band, and the trained policy's return."""
    figure = figure_of(3.1)
    axes = figure.add_subplot()
    numbers = np.arange(1, len(returns) + 1)
    ended = ~np.array(diverged, dtype=bool)
    values = np.asarray(returns, dtype=float)
    axes.fill_between(band.x + 1, band.low, band.high, color=COLOURS[0], alpha=0.18, linewidth=0, label="quartiles")
    axes.plot(numbers[ended], values[ended], "o", color=GREY, markersize=3.5, alpha=0.8, label="an episode")
    if not ended.all():
        axes.plot(numbers[~ended], values[~ended], "x", color=COLOURS[1], label="diverged")
    axes.plot(band.x + 1, band.middle, color=COLOURS[0], label="running mean")
    if final is not None:
        axes.plot([len(returns) + 1], [final], "*", color=COLOURS[1], markersize=10, label=trained)
    axes.set(xlabel="episode", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=5, handletextpad=0.5, columnspacing=1.4)
    return figure


@styled
def reward_within(progress: Array, returned: Array, label: str = "return") -> Figure:
    """The return so far of one training, against its progress."""
    figure = figure_of(2.7)
    axes = figure.add_subplot()
    axes.axhline(0, color=PALE, linewidth=1)
    axes.plot(progress, returned, "-o", color=COLOURS[0])
    axes.set(ylabel=label)
    axes.grid(axis="y")
    name_progress(axes)
    return figure


@styled
def heat_maps(panels: Mapping[str, Array], terms: Sequence[str], edges: Array, note: str = "mean weight") -> Figure:
    """Maps of weights, each [terms, phases], stacked vertically, on a logarithmic scale centred at 1.

    Args:
        panels: maps by title.
        terms: names of the rows.
        edges: start and end of the phases, in percent.
        note: label of the scale.
    """
    height = 0.28 * len(terms) + 0.42
    figure = figure_of(height * len(panels) + 0.9)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, table) in zip(grid, panels.items(), strict=True):
        mesh = draw_map(axes, table, terms, edges)
        axes.set_title(clipped(title))
    name_progress(grid[-1], margin=0)
    bar = figure.colorbar(mesh, ax=list(grid), label=note, shrink=0.9, aspect=12 * len(panels), pad=0.02)
    bar.set_ticks([(OFF - DOUBLINGS) / 2, -2, 0, 2, 3], labels=["0", "1/4", "1", "4", "8"])
    bar.outline.set_visible(False)
    return figure


def draw_map(axes: Axes, table: Array, terms: Sequence[str], edges: Array) -> QuadMesh:
    """Draws one map of weights, [terms, phases]."""
    columns = table.shape[1]
    mesh = axes.pcolormesh(
        edges[: columns + 1], np.arange(len(terms) + 1), on_scale(table), cmap=SCALE, vmin=OFF, vmax=DOUBLINGS
    )
    mesh.set_edgecolor("white")
    mesh.set_linewidth(0.6 if columns <= 60 else 0)
    axes.set_yticks(np.arange(len(terms)) + 0.5, shortened(terms))
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    if columns <= 15:  # numbers in narrower columns are illegible
        _write_values(axes, table, edges)
    return mesh


def on_scale(weights: Array) -> Array:
    """log2 of weights, clipped to 1/8 and 8; weight 0 is below the scale, and NaN stays NaN."""
    with np.errstate(divide="ignore"):
        logs = np.clip(np.log2(weights), -DOUBLINGS, DOUBLINGS)
    return np.where(np.asarray(weights) == 0, (OFF - DOUBLINGS) / 2, logs)


def _write_values(axes: Axes, table: Array, edges: Array) -> None:
    for row, (values, places) in enumerate(zip(table, on_scale(table), strict=True)):
        for column, (value, place) in enumerate(zip(values, places, strict=True)):
            if np.isfinite(value):
                ink = GREY if value == 0 else "white" if place > 0.8 else INK
                middle = (edges[column] + edges[column + 1]) / 2
                text = "off" if value == 0 else f"{value:.2g}"
                axes.text(middle, row + 0.5, text, color=ink, ha="center", va="center", fontsize=7.5)


@styled
def loss_curves(curves: Mapping[str, tuple[float, Array]], progress: Array) -> Figure:
    """Losses relative to their first values, on a logarithmic scale; `progress` is in percent."""
    figure = figure_of(3.2)
    axes = figure.add_subplot()
    axes.axhline(1, color=PALE, linewidth=1)
    for place, (name, (first, curve)) in enumerate(zip(shortened(list(curves)), curves.values(), strict=True)):
        axes.plot(progress[: len(curve)], curve, label=f"{name} (from {first:.3g})", **_line(place))
    axes.set(ylabel="loss / its first value", yscale="log")
    axes.yaxis.set_major_formatter(PLAIN)
    lowest, highest = axes.get_ylim()
    # Within one decade there may be no power of ten, so minor ticks need numbers.
    axes.yaxis.set_minor_formatter(PLAIN if highest / lowest < 12 else NullFormatter())
    axes.grid(axis="y")
    name_progress(axes)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _line(place: int) -> dict[str, Any]:
    """The style of a curve by index: colour, marker and dashes, so that colour is not needed to read it."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
    }


@styled
def reward_split(score: Mapping[str, Band], loss: Mapping[str, Band]) -> Figure:
    """Score and loss on the reward split against progress, with a curve and a band for each name."""
    figure = figure_of(2.9)
    for axes, bands, label in zip(figure.subplots(1, 2), (score, loss), ("score (0 to 1)", "label loss"), strict=True):
        for place, (name, band) in enumerate(bands.items()):
            axes.fill_between(band.x, band.low, band.high, color=COLOURS[place], alpha=0.18, linewidth=0)
            axes.plot(band.x, band.middle, label=name, **_line(place))
        axes.set_title(label)
        axes.grid(axis="y")
        name_progress(axes)
    if len(score) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def reward_split_ends(
    panels: Mapping[str, tuple[Sequence[float], float | None]], window: int, trained: str = "trained policy"
) -> Figure:
    """The final values of each episode, their running mean, and the trained policy's value, if known."""
    figure = figure_of(2.9)
    for axes, (label, (values, final)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        numbers = np.arange(1, len(values) + 1)
        axes.plot(numbers, values, "o", color=GREY, markersize=3.5, alpha=0.8, label="an episode")
        axes.plot(numbers, running(values, window).middle, color=COLOURS[0], label="running mean")
        if final is not None:
            axes.plot([len(values) + 1], [final], "*", color=COLOURS[1], markersize=10, label=trained)
        axes.set_title(label)
        axes.set_xlabel("episode")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def cost_split(amounts: Mapping[str, Mapping[str, float]]) -> Figure:
    """A stacked bar of the parts' shares, in percent, for each label such as `time 12 s`."""
    figure = figure_of(0.5 * len(amounts) + 1.2)
    axes = figure.add_subplot()
    parts = list(dict.fromkeys(part for by in amounts.values() for part in by))
    starts = np.zeros(len(amounts))
    totals = np.array([sum(by.values()) for by in amounts.values()])
    for place, part in enumerate(parts):
        colour = COLOURS[(PARTS.index(part) if part in PARTS else place) % len(COLOURS)]  # the same in every run
        shares = 100 * np.array([by.get(part, 0.0) for by in amounts.values()]) / np.where(totals > 0, totals, 1)
        if shares.any():
            axes.barh(list(amounts), shares, left=starts, color=colour, edgecolor="white", label=part, height=0.62)
        for row, (share, start) in enumerate(zip(shares, starts, strict=True)):
            if share >= 6:  # the number does not fit in a narrower piece
                ink = "black" if colour in COLOURS[3:6] else "white"
                axes.text(start + share / 2, row, f"{share:.0f} %", ha="center", va="center", color=ink, fontsize=8.5)
        starts = starts + shares
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), xlabel="share of the whole")
    axes.xaxis.set_major_formatter(PERCENT)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def name_progress(axes: Axes, margin: float = 1.5) -> None:
    """Labels the x axis with the progress of the training, in percent."""
    axes.set(xlim=(0, 100 + margin), xlabel="progress of the student's training")
    axes.xaxis.set_major_formatter(PERCENT)
