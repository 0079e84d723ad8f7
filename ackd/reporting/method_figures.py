"""The pictures and tables of runs of tune, mutual, federate and pretrain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ackd.errors import InputError
from ackd.reporting import method_pictures, pictures
from ackd.reporting.html_report import Picture, Table
from ackd.reporting.run_figures import costs
from ackd.runs.log import Run, read_columns

Sheet = tuple[list[Picture], list[Table]]  # the pictures of the page, and its tables


def of_method(run: Run) -> Sheet:
    """The pictures and tables of a run without decisions.

    Raises:
        InputError: if the run has no results yet, or one of its files is damaged.
    """
    album, tables = METHODS[run.command](run)
    return [*album, *costs(run)], tables


def _rows(run: Run, name: str, **columns: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = read_columns(run.path / name, **columns)
    if not rows:
        raise InputError(f"{run.path} has come to nothing yet that could be drawn: let the run go on (--resume)")
    return rows


def _tuned(run: Run) -> Sheet:
    rows = _rows(
        run,
        "table.csv",
        names=("note",),
        numbers=("temperature", "kd_weight"),
        perhaps=("reward_score", "reward_loss"),
    )
    inside = [row for row in rows if "not in the grid" not in row["note"]] or rows
    taus, weights = (sorted({row[name] for row in inside}) for name in ("temperature", "kd_weight"))
    table = np.full((len(taus), len(weights)), np.nan)
    best = None
    for row in inside:
        place = taus.index(row["temperature"]), weights.index(row["kd_weight"])
        table[place] = math.nan if row["reward_score"] is None else row["reward_score"]
        best = place if "best" in row["note"] else best
    said = "Scores on the reward split by temperature and weight."
    if best is not None:
        said += f" The best is {table[best]:.2f} at temperature {taus[best[0]]:g} and weight {weights[best[1]]:g}."
    return [
        Picture(
            "grid",
            "What every pair came to",
            "A row is a temperature and a column a weight of the teacher; the darker a cell, the better its students "
            "did on the reward split. The frame is around the pair that was chosen; a cross is a training that "
            "diverged.",
            said,
            pictures.png(
                method_pictures.grid(
                    table,
                    taus,
                    weights,
                    best,
                    ("temperature", "weight of the teacher", "score (%)"),
                )
            ),
        )
    ], [
        Table(
            "Pairs",
            [
                (
                    f"{row['temperature']:g}",
                    f"{row['kd_weight']:g}",
                    _number(row["reward_score"], ".2f", "diverged"),
                    _number(row["reward_loss"], ".4f"),
                    row["note"],
                )
                for row in rows
            ],
            ("temperature", "weight", "reward split (%)", "loss there", ""),
        )
    ]


def _federated(run: Run) -> Sheet:
    rows = _rows(run, "table.csv", names=("start",), numbers=("round", "score", "loss"))
    starts = list(dict.fromkeys(row["start"] for row in rows))
    panels = {
        title: {start: _curve([row for row in rows if row["start"] == start], "round", name) for start in starts}
        for title, name in (("score (%)", "score"), ("loss", "loss"))
    }
    target = _finite(run.settings.get("target"))
    ends = ", ".join(f"{start} {panels['score (%)'][start][1][-1]:.2f}" for start in starts)
    reached = {start: one for start, one in _mapping(run.result.get("starts")).items() if isinstance(one, Mapping)}
    return [
        Picture(
            "rounds",
            "Round by round",
            "Each curve is a federation from one start, on the examples that the server holds; round 0 is the start "
            "itself. The dashed line is the score to reach.",
            f"Score and loss by round; the scores end at {ends}.",
            pictures.png(
                method_pictures.curves_side_by_side(
                    panels, "round", {} if target is None else {"score (%)": ("target", target)}
                )
            ),
        )
    ], [
        Table(
            "Starts",
            [
                (
                    start,
                    _number(one.get("rounds_to_target"), "g"),
                    _number(one.get("exchanges_to_target"), "g"),
                    *(_number(one.get(name), ".2f") for name in ("dev_score", "gain", "forgetting")),
                )
                for start, one in reached.items()
            ],
            ("start", "rounds to target", "exchanges to it", "dev (%)", "gain", "forgetting"),
        )
    ]


def _mutual(run: Run) -> Sheet:
    rows = _rows(run, "curve.csv", numbers=("step", "student", "label_loss", "peer_loss"))
    peers = sorted({row["student"] for row in rows})
    panels = {
        title: {f"student {peer:g}": _curve([r for r in rows if r["student"] == peer], "step", name) for peer in peers}
        for title, name in (("loss on the labels", "label_loss"), ("divergence from the others", "peer_loss"))
    }
    cells = run.result.get("students")
    ends = ", ".join(f"{name} {curve[1][-1]:.3g}" for name, curve in panels["loss on the labels"].items())
    return [
        Picture(
            "losses",
            "Losses",
            "Each curve is a student, averaged over 20 steps on the batches it learned from: how far it is from the "
            "labels, and how far from what the others answer. Lower is better, and closer.",
            f"Loss on the labels at the end: {ends}.",
            pictures.png(method_pictures.curves_side_by_side(panels, "step", {})),
        )
    ], [
        Table(
            "Students",
            [
                (
                    str(k + 1),
                    str(one.get("student")),
                    *(_number(one.get(n), ".2f") for n in ("reward_score", "dev_score")),
                )
                for k, one in enumerate(cells if isinstance(cells, list) else ())
                if isinstance(one, Mapping)
            ],
            ("", "began as", "reward split (%)", "dev (%)"),
        )
    ]


def _pretrained(run: Run) -> Sheet:
    rows = _rows(run, "curve.csv", numbers=("step", "loss", "lm_loss", "accuracy"), perhaps=("kd_loss",))
    taught = any(row["kd_loss"] is not None for row in rows)
    losses = {"next token": "lm_loss", **({"teacher's distribution": "kd_loss", "both": "loss"} if taught else {})}
    title = "loss (nats a token)"
    panels = {
        title: {name: _curve(rows, "step", column) for name, column in losses.items()},
        "accuracy (%)": {"next token": _curve(rows, "step", "accuracy", 100.0)},
    }
    held = _finite(run.result.get("dev_loss"))
    return [
        Picture(
            "losses",
            "Losses",
            "What the student loses on the batches it learns from, and the share of next tokens that it finds "
            "likeliest; the dashed line is its loss on held-out text at the end.",
            f"The training loss goes from {rows[0]['lm_loss']:.3g} to {rows[-1]['lm_loss']:.3g}"
            + ("." if held is None else f"; {held:.3g} on held-out text."),
            pictures.png(
                method_pictures.curves_side_by_side(
                    panels, "step", {} if held is None else {title: ("held-out loss at the end", held)}
                )
            ),
        )
    ], []


def _curve(rows: Sequence[Mapping[str, Any]], x: str, y: str, scale: float = 1.0) -> tuple[Any, Any]:
    known = [row for row in rows if row[y] is not None]
    return np.array([row[x] for row in known], float), scale * np.array([row[y] for row in known], float)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: Any) -> float | None:
    """The value as a float if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None


def _number(value: Any, form: str, otherwise: str = "") -> str:
    number = _finite(value)
    return otherwise if number is None else format(number, form)


METHODS: Mapping[str, Callable[[Run], Sheet]] = {
    "tune": _tuned,
    "federate": _federated,
    "mutual": _mutual,
    "pretrain": _pretrained,
}
