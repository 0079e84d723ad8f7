"""What a run's folder tells, read with checks: its settings, its result, its decisions, its table of scores."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ackd.errors import InputError
from ackd.runs.folder import CONFIG, RESULT

Value = TypeVar("Value")

LARGEST = 1 << 63  # of counts
DEEPEST = 32  # levels of JSON: runs write five
SELECT, LOSS = "select/", "loss/"
DECISION_COLUMNS = ("episode", "steps_done", "selection", "reward", "reward_loss", "reward_score", "label_loss")
FIGURES = ("reward", "flops_share", "seconds")  # of a result, beside scores and losses
CELL_COLUMNS = ("task", "policy", "seed", "metric", "dev_score", "teacher_score", "reward", "flops_share", "seconds")


@dataclass(frozen=True)
class Decision:
    """A row of decisions.csv, which is a phase; None or a missing type is what was not measured."""

    episode: int
    seed: int
    steps_done: int
    reward: float
    reward_loss: float | None
    reward_score: float | None
    label_loss: float
    error: str
    weights: Mapping[str, float]  # of the labels, first, and of every knowledge type; 0 where it was not selected
    losses: Mapping[str, float]  # of the types that were computed


@dataclass(frozen=True)
class Cell:
    """A row of table.csv: one student; without a score if its training diverged."""

    task: str
    policy: str
    seed: int
    metric: str
    score: float | None  # percent
    teacher: float  # percent
    reward: float | None  # None where a part of the reward split was measured
    flops_share: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A run's folder; what an unfinished run has not written yet is empty."""

    path: Path
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.result)


def open_run(path: Path) -> Run:
    """What the JSON files of a run's folder say.

    Raises:
        InputError: if the folder holds no run, or a file of it is damaged.
    """
    if not os.path.isdir(path):
        raise InputError(f"there is no folder {path}: name the folder of a run")
    config = _json(path / CONFIG)
    command = config.get("command")
    if not isinstance(command, str):  # a model's folder has a config.json too
        raise InputError(f"the folder {path} holds no run: name the --output of ackd train, distill or evaluate")
    settings, versions = (_mapping(config.get(name)) for name in ("settings", "versions"))
    result = _json(path / RESULT)
    for name, value in _figures(result):
        if value is not None and type(value) not in (int, float):
            raise InputError(
                f"{path / RESULT} is damaged, {name!r} is {reprlib.repr(value)} and no number: run it again"
            )
    return Run(path, command, settings, versions, result, _json(path / "ledger.json"))


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What of a result is a number, by its name, or None where there is none."""
    yield from (
        (name, value) for name, value in result.items() if name in FIGURES or name.endswith(("_score", "_loss"))
    )
    for scores in _mapping(result.get("dev_scores")).values():
        yield from _mapping(scores).items()


def _json(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; nothing if there is no such file."""
    if not os.path.isfile(path):
        return {}
    try:
        content = json.loads(_read(path))
        if _nests(content, DEEPEST):
            raise ValueError(f"it nests deeper than {DEEPEST}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged, it holds no JSON ({error}): run it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged, it holds no JSON object: run it again")
    return content


def _nests(content: Any, levels: int) -> bool:
    """Whether there is anything below so many levels of lists and objects."""
    level = [content]
    for _ in range(levels):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
    return bool(level)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def read_decisions(path: Path) -> list[Decision]:
    """The rows of a decisions.csv in their order; those of earlier versions, without columns for each type or for the
    labels, as well.

    Raises:
        InputError: if a line cannot be read; it names the file and the line.
    """
    rows = list(_rows(path, DECISION_COLUMNS))
    if rows and not any(name.startswith(SELECT) for name in rows[0].values):
        seen = dict.fromkeys(name for row in rows for name in _named(row["selection"]))
        return [_decision(row, {name: float(name in _named(row["selection"])) for name in seen}) for row in rows]
    return [_decision(row, row.numbers(SELECT)) for row in rows]


def _named(selection: str) -> list[str]:
    return [] if selection == "labels" else selection.split("+")


def _decision(row: _Row, weights: Mapping[str, float]) -> Decision:
    return Decision(
        episode=row.number("episode", _count),
        seed=row.number("seed", int),
        steps_done=row.number("steps_done", _count),
        reward=row.number("reward", _finite),
        reward_loss=row.number_or_none("reward_loss"),
        reward_score=row.number_or_none("reward_score"),
        label_loss=row.number("label_loss", float),
        error=row.values.get("error", ""),
        weights=weights,
        losses=row.numbers(LOSS),
    )


def read_table(path: Path) -> list[Cell]:
    """The rows of a table.csv in their order.

    Raises:
        InputError: if a line cannot be read; it names the file and the line.
    """
    return [
        Cell(
            task=row["task"],
            policy=row["policy"],
            seed=row.number("seed", int),
            metric=row["metric"],
            score=row.number("dev_score", _finite) if row["dev_score"] else None,
            teacher=row.number("teacher_score", _finite),
            reward=row.number("reward", _finite) if row["reward"] else None,
            flops_share=row.number("flops_share", _finite),
            seconds=row.number("seconds", _finite),
        )
        for row in _rows(path, CELL_COLUMNS)
    ]


def read_columns(
    path: Path, *, names: tuple[str, ...] = (), numbers: tuple[str, ...] = (), perhaps: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Some columns of a CSV file, line by line: words, numbers, and numbers or None where there is none.

    Raises:
        InputError: if a line cannot be read; it names the file and the line.
    """
    return [
        {name: row[name] for name in names}
        | {name: row.number(name, _finite) for name in numbers}
        | {name: row.number(name, _finite) if row[name] not in ("", "nan") else None for name in perhaps}
        for row in _rows(path, (*names, *numbers, *perhaps))
    ]


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < LARGEST:
        raise ValueError
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


@dataclass(frozen=True)
class _Row:
    """A line of a CSV file by its columns."""

    path: Path
    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def number(self, column: str, kind: Callable[[str], Value]) -> Value:
        """The column's number."""
        try:
            return kind(self.values[column])
        except (KeyError, ValueError):
            value = self.values.get(column, "")
            raise InputError(
                f"{self.path}, line {self.line}: {value[:40]!r} in the column {column!r} is no number: "
                "the file is damaged, run it again"
            ) from None

    def number_or_none(self, column: str) -> float | None:
        """The column's number, or None where it is empty."""
        return self.number(column, float) if self.values[column] else None

    def numbers(self, prefix: str) -> dict[str, float]:
        """Those of the columns that begin so and are not empty, by the rest of their names."""
        return {
            column.removeprefix(prefix): self.number(column, _finite if prefix == SELECT else float)
            for column, value in self.values.items()
            if column.startswith(prefix) and value
        }


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[_Row]:
    """The lines of a CSV file; a last one that was not written to its end, as a killed run leaves it, is none."""
    if not os.path.isfile(path):
        return
    content = _read(path)
    content = content[: content.rfind(b"\n") + 1]
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text: the file is damaged, run it again") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for fields in reader:
            if not header:
                header = fields
                missing = [name for name in needed if name not in header]
                if missing:
                    raise InputError(f"{path}, line 1: no column {', '.join(missing)}: the file is none of this run's")
            elif len(fields) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields where the first line names {len(header)}: "
                    "the file is damaged, run it again"
                )
            else:
                yield _Row(path, reader.line_num, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}: the file is damaged, run it again") from None
