"""Examples before they are tokenised: text columns, labels and ids."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.json_rows import encodable
from ackd.tasks.read import Columns, from_file, from_folder, from_hub
from ackd.tasks.spec import TaskSpec

DIGITS = 300  # of a whole number, so that it has a float
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rows:
    """Some examples; `ids` are their places in the source."""

    texts: tuple[Sequence[str], ...]  # one sequence for each text column
    labels: NDArray[Any]  # [N], int64 classes or float32 values
    ids: NDArray[np.int64]  # [N]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, places: NDArray[np.int64]) -> Rows:
        """Those at `places`."""
        texts = tuple([column[i] for i in places.tolist()] for column in self.texts)
        return Rows(texts, self.labels[places], self.ids[places])


def glue_rows(spec: TaskSpec, data: str | Path | None, split: str) -> Rows:
    """A split of a GLUE task.

    Raises:
        InputError: if it cannot be had, or its labels are hidden.
    """
    table = from_hub(spec, split) if data is None else from_folder(Path(data), spec, split)
    source = f"the {split} split of {spec.name}"
    labels = _values(table, spec.label_column, source)
    known = "numbers from 0 up" if spec.regression else f"0 to {len(spec.classes) - 1}"
    for label in labels:
        number = isinstance(label, int | float) and label >= 0  # NaN is not
        if not (number if spec.regression else label in range(len(spec.classes))):
            raise InputError(
                f"{source} has the label {reprlib.repr(label)}, and its labels are {known}: they are hidden or damaged"
            )
    return _rows(spec, table, labels, source)


def own_rows(name: str, path: Path, text_columns: Sequence[str], label_column: str | None) -> tuple[TaskSpec, Rows]:
    """A user's own file, and the task that it is.

    Labels that are strings or whole numbers are classes, in sorted order; other numbers are regression.

    Raises:
        InputError: if columns are not named or missing, or labels or texts are unfit.
    """
    table = from_file(path)
    if not 1 <= len(text_columns) <= 2 or label_column is None:
        raise InputError(
            f"name the columns of {path} with --text-columns (one or two) and --label-column: it has {', '.join(table)}"
        )
    values = _values(table, label_column, str(path))
    if any(value is None or value != value for value in values):
        raise InputError(f"{path} has a row without a label in {label_column!r}: fill it or leave the row out")
    _check_labels(values, label_column, path)
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        spec = TaskSpec(name, tuple(text_columns), label_column, (), ("pearson", "spearman"))
        return spec, _rows(spec, table, values, str(path))
    values = [int(value) if isinstance(value, float) else value for value in values]
    if len({type(value) for value in values}) > 1:
        raise InputError(f"{path} has labels of more than one kind in {label_column!r}: take text, or whole numbers")
    classes = tuple(str(value) for value in sorted(set(values), key=_in_order(values)))
    if len(classes) < 2:
        raise InputError(f"{path} has only the label {classes[0]!r} in {label_column!r}: two classes are needed")
    spec = TaskSpec(name, tuple(text_columns), label_column, classes, ("accuracy",))
    return spec, _rows(spec, table, _class_ids(spec, values, path), str(path))


def own_dev(spec: TaskSpec, path: Path) -> Rows:
    """A user's own file to report on, with the columns of the training file.

    Raises:
        InputError: if a column is missing or a label is none of the task's.
    """
    table = from_file(path)
    values = _values(table, spec.label_column, str(path))
    if spec.regression:
        return _rows(spec, table, values, str(path))
    return _rows(spec, table, _class_ids(spec, values, path), str(path))


def _in_order(values: Sequence[Any]) -> Callable[[Any], Any]:
    """Whole numbers by size, also where a format keeps them as strings; other strings by their letters."""
    whole = all(
        not isinstance(value, str) or (len(value) <= DIGITS and value.removeprefix("-").isdecimal()) for value in values
    )
    return int if whole else str


def _class_ids(spec: TaskSpec, values: Sequence[Any], path: Path) -> NDArray[np.int64]:
    known = {name: i for i, name in enumerate(spec.classes)}
    names = [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in values]
    for name in names:
        if name not in known:
            raise InputError(
                f"{path} has the label {reprlib.repr(name)}, which the training data ({', '.join(known):.200}) has not"
            )
    return np.asarray([known[name] for name in names], np.int64)


def _values(table: Columns, column: str, source: str) -> list[Any]:
    """A column's values, as Python has them."""
    if column not in table:
        raise InputError(f"{source} has no column {column!r}: it has {', '.join(table)}")
    try:
        return table[column]
    except Exception as error:  # text that is no UTF-8, dates that no calendar has
        raise InputError(f"{source} has values in {column!r} that cannot be read ({error!s:.200})") from error


def _check_labels(values: Sequence[Any], column: str, path: Path) -> None:
    """Refuses labels that are neither text nor numbers."""
    for value in values:
        if not isinstance(value, str | int | float) or (isinstance(value, str) and not encodable(value)):
            raise InputError(
                f"{path} has the label {reprlib.repr(value)} in {column!r}: labels are text, whole numbers, or numbers"
            )


def _rows(spec: TaskSpec, table: Columns, labels: Sequence[Any] | NDArray[Any], source: str) -> Rows:
    for label in labels if spec.regression else ():
        if not isinstance(label, int | float) or not abs(label) <= LARGEST:  # a NaN too
            raise InputError(
                f"{source} has the label {reprlib.repr(label)} in {spec.label_column!r}: where labels are numbers with "
                f"decimals, all have to be numbers, and at most {LARGEST:g}"
            )
    texts = tuple(_values(table, column, source) for column in spec.text_columns)
    for column, values in zip(spec.text_columns, texts, strict=True):
        for place, value in enumerate(values):
            if not isinstance(value, str) or not encodable(value):
                raise InputError(f"{source} has no text in {column!r}, row {place + 1}: got {reprlib.repr(value)}")
    kind = np.float32 if spec.regression else np.int64
    return Rows(texts, np.asarray(labels, kind), np.arange(len(labels)))
