"""Reads and checks the files of a run's folder: settings, result, decisions and table of scores."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, FiniteFloat, ValidationError

from ackd.errors import InputError
from ackd.files.schema import MOST, Count, Object, adapter, read, read_bytes, sentence
from ackd.runs.folder import CONFIG, RESULT, Config

T = TypeVar("T")
Measured: TypeAlias = Annotated[float | None, BeforeValidator(lambda text: text or None)]
Finite: TypeAlias = Annotated[FiniteFloat | None, BeforeValidator(lambda text: text or None)]

SELECT, LOSS = "select/", "loss/"
DECISION_COLUMNS = ("episode", "steps_done", "selection", "reward", "reward_loss", "reward_score", "label_loss")
FIGURES = ("reward", "flops_share", "seconds")  # numbers of a result, in addition to scores and losses
CELL_COLUMNS = ("task", "policy", "seed", "metric", "dev_score", "teacher_score", "reward", "flops_share", "seconds")
ANEW = "run it again"
INNER = ("student", "model", "policy")  # folders of a run with what it has trained


@dataclass(frozen=True)
class Decision:
    """A row of decisions.csv: one phase; None or a missing type means not measured."""

    episode: Count
    seed: int
    steps_done: Count
    reward: FiniteFloat
    reward_loss: Measured
    reward_score: Measured
    label_loss: float
    weights: Mapping[str, FiniteFloat]  # weights of the labels (first) and of every knowledge type; 0: not selected
    losses: Mapping[str, float]  # losses of the computed types
    error: str = ""


@dataclass(frozen=True)
class Cell:
    """A row of table.csv: one student; the score is None if its training diverged."""

    task: str
    policy: str
    seed: int
    metric: str
    score: Annotated[Finite, Field(alias="dev_score")]  # percent
    teacher: Annotated[FiniteFloat, Field(alias="teacher_score")]  # percent
    reward: Finite  # None if only a part of the reward split was measured
    flops_share: FiniteFloat
    seconds: FiniteFloat


@dataclass(frozen=True)
class Run:
    """The content of a run's folder; files that an unfinished run has not written yet are empty."""

    path: Path
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return bool(self.result)


def is_run(path: Path) -> bool:
    """Whether a folder contains a run; a model's folder also has a config.json, but no command in it."""
    return isinstance(_json(path / CONFIG).get("command"), str)


def finished_run(path: Path) -> Run | None:
    """The run in a folder, or, for the folder of a run's student, model or policy, this run; None if there is none.

    Raises:
        InputError: if the run is not finished, or a file is damaged.
    """
    path = path.resolve()
    folders = (path, path.parent) if path.name in INNER else (path,)
    run = next((open_run(one) for one in folders if is_run(one)), None)
    if run is not None and not run.finished:
        raise InputError(f"the run in {run.path} is not finished: finish it with --resume, or name another")
    return run


def open_run(path: Path) -> Run:
    """Reads the JSON files of a run's folder.

    Raises:
        InputError: if the folder contains no run, or a file is damaged.
    """
    if not os.path.isdir(path):
        raise InputError(f"there is no folder {path}: name the folder of a run")
    if not is_run(path):
        raise InputError(f"the folder {path} holds no run: name the --output of ackd train, distill or evaluate")
    config = read(path / CONFIG, Config, ANEW, extra="ignore")
    result = _json(path / RESULT)
    try:
        adapter(dict[str, float | None]).validate_python(dict(_figures(result)), strict=True)
    except ValidationError as error:
        raise InputError(f"{path / RESULT} is damaged ({sentence(error)}): {ANEW}") from error
    return Run(path, config.command, config.settings, config.versions, result, _json(path / "ledger.json"))


def _figures(result: Object) -> Iterator[tuple[str, Any]]:
    """The numeric entries of a result (number or None), by name."""
    yield from (
        (name, value) for name, value in result.items() if name in FIGURES or name.endswith(("_score", "_loss"))
    )
    splits = result.get("dev_scores")
    for split, scores in splits.items() if isinstance(splits, dict) else ():
        yield from ((f"{split}.{name}", value) for name, value in scores.items()) if isinstance(scores, dict) else ()


def _json(path: Path) -> Object:
    """The content of a JSON file; empty if the file does not exist."""
    return read(path, Object, ANEW) if os.path.isfile(path) else {}


def read_decisions(path: Path) -> list[Decision]:
    """The rows of a decisions.csv, in order.

    Also reads files of earlier versions, which have no columns for single types or for the labels.

    Raises:
        InputError: if a line cannot be read; it names the file and the line.
    """
    rows = list(_rows(path, DECISION_COLUMNS))
    if rows and not any(name.startswith(SELECT) for name in rows[0][1]):
        seen = dict.fromkeys(name for _, row in rows for name in _named(row["selection"]))
        for _, row in rows:
            row.update({SELECT + name: str(int(name in _named(row["selection"]))) for name in seen})
    return [
        _row(path, line, Decision, {**row, "weights": _cut(row, SELECT), "losses": _cut(row, LOSS)})
        for line, row in rows
    ]


def _named(selection: str) -> list[str]:
    return [] if selection == "labels" else selection.split("+")


def _cut(row: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The non-empty columns with a prefix, by their names without it."""
    return {name.removeprefix(prefix): value for name, value in row.items() if value and name.startswith(prefix)}


def read_table(path: Path) -> list[Cell]:
    """The rows of a table.csv, in order.

    Raises:
        InputError: if a line cannot be read; it names the file and the line.
    """
    return [_row(path, line, Cell, row) for line, row in _rows(path, CELL_COLUMNS)]


def read_columns(
    path: Path, *, names: tuple[str, ...] = (), numbers: tuple[str, ...] = (), perhaps: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Reads some columns of a CSV file, row by row.

    Args:
        path: the file.
        names: columns of text.
        numbers: columns of numbers.
        perhaps: columns of numbers that may be empty or nan, which gives None.

    Raises:
        InputError: if a line cannot be read; it names the file and the line.
    """
    return [
        {name: row[name] for name in names}
        | _row(path, line, dict[str, FiniteFloat], {name: row[name] for name in numbers})
        | _row(path, line, dict[str, Finite], {name: row[name] if row[name] != "nan" else "" for name in perhaps})
        for line, row in _rows(path, (*names, *numbers, *perhaps))
    ]


def _row(path: Path, line: int, kind: type[T], values: Mapping[str, Any]) -> T:
    """Parses a line of a CSV file."""
    try:
        found: T = adapter(kind).validate_python(values, extra="ignore")
    except ValidationError as error:
        raise InputError(f"{path}, line {line}: {sentence(error)}: the file is damaged, {ANEW}") from None
    return found


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers; an incomplete last line (of a killed run) is dropped."""
    if not os.path.isfile(path):
        return
    content = read_bytes(path, MOST)
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
                yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}: the file is damaged, run it again") from None
