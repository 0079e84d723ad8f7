"""Examples before they are tokenised: text columns, labels and ids."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.files.json_rows import encodable
from ackd.tasks.read import Columns, from_folder, from_hub
from ackd.tasks.spec import TaskSpec

logger = logging.getLogger("ackd")

DIGITS = 300  # most digits of a whole number that fits into a float
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rows:
    """Examples as texts and labels; `ids` are their row numbers in the source."""

    texts: tuple[Sequence[str], ...]  # one sequence for each text column
    labels: NDArray[Any]  # [N], int64 classes or float32 values
    ids: NDArray[np.int64]  # [N]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: NDArray[np.int64]) -> Rows:
        """The examples at `indices`."""
        texts = tuple([column[i] for i in indices.tolist()] for column in self.texts)
        return Rows(texts, self.labels[indices], self.ids[indices])


def glue_rows(spec: TaskSpec, data: str | Path | None, split: str) -> Rows:
    """A split of a GLUE task.

    Raises:
        InputError: if the split cannot be loaded, or its labels are hidden.
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


def glue_texts(spec: TaskSpec, data: str | Path | None, split: str) -> Rows:
    """A split of a GLUE task without labels; the ids come from the column `idx`, if it exists.

    Raises:
        InputError: if the split cannot be loaded, or the column `idx` is damaged.
    """
    table = from_hub(spec, split) if data is None else from_folder(Path(data), spec, split)
    source = f"the {split} split of {spec.name}"
    rows = texts_alone(spec, table, source)
    if "idx" not in table:
        return rows
    ids = _values(table, "idx", source)
    for one in ids:
        if type(one) is not int or not 0 <= one < 2**31:
            raise InputError(f"{source} has the idx {reprlib.repr(one)}, which is no number of a row: it is damaged")
    return replace(rows, ids=np.asarray(ids, np.int64))


def own_rows(
    name: str, table: Columns, source: str, text_columns: Sequence[str], label_column: str | None
) -> tuple[TaskSpec, Rows]:
    """The specification and rows of the user's own training data.

    Named classes keep their names and order; rows without a class are left out. Other labels are classes in sorted
    order if they are strings or whole numbers, and regression values otherwise.

    Args:
        name: the task's name.
        table: the data.
        source: name of the data in messages.
        text_columns: one or two.
        label_column: the column of labels.

    Raises:
        InputError: if columns are not named or missing, or labels or texts are invalid.
    """
    if not 1 <= len(text_columns) <= 2 or label_column is None:
        raise InputError(
            f"name the columns of {source} with --text-columns (one or two) and --label-column: it has "
            f"{', '.join(table)}"
        )
    values = _values(table, label_column, source)
    if not values:
        raise InputError(f"{source} has no rows")
    if label_column in table.classes:
        classes = table.classes[label_column]
        _check_number(classes, label_column, source)
        spec = TaskSpec(name, tuple(text_columns), label_column, classes, ("accuracy",))
        return spec, _labelled(_rows(spec, table, _named(spec, table, values, source), source), source)
    if any(value is None or value != value for value in values):
        raise InputError(f"{source} has a row without a label in {label_column!r}: fill it or leave the row out")
    _check_labels(values, label_column, source)
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        spec = TaskSpec(name, tuple(text_columns), label_column, (), ("pearson", "spearman"))
        return spec, _rows(spec, table, values, source)
    values = [int(value) if isinstance(value, float) else value for value in values]
    if len({type(value) for value in values}) > 1:
        raise InputError(f"{source} has labels of more than one kind in {label_column!r}: take text, or whole numbers")
    classes = tuple(str(value) for value in sorted(set(values), key=_in_order(values)))
    _check_number(classes, label_column, source)
    spec = TaskSpec(name, tuple(text_columns), label_column, classes, ("accuracy",))
    return spec, _rows(spec, table, _class_ids(spec, values, source), source)


def own_dev(spec: TaskSpec, table: Columns, source: str) -> Rows:
    """The rows of the user's own dev data, with the columns of the training data.

    Raises:
        InputError: if a column is missing, or a label is not in the training data.
    """
    values = _values(table, spec.label_column, source)
    if spec.regression:
        return _rows(spec, table, values, source)
    if spec.label_column in table.classes:
        return _labelled(_rows(spec, table, _named(spec, table, values, source), source), source)
    return _rows(spec, table, _class_ids(spec, values, source), source)


def texts_alone(spec: TaskSpec, table: Columns, source: str) -> Rows:
    """Rows without labels; the labels of the result are 0.

    Raises:
        InputError: if a column is missing or contains values that are no text.
    """
    count = len(_values(table, spec.text_columns[0], source))
    if not count:
        raise InputError(f"{source} has no rows")
    return _rows(spec, table, np.zeros(count), source)


def has_labels(table: Columns, column: str, source: str) -> bool:
    """Whether a column exists and has a label in any row (-1 means no label, as in hidden test labels)."""
    return column in table and any(value is not None and value != -1 for value in _values(table, column, source))


def _check_number(classes: Sequence[str], column: str, source: str) -> None:
    """Refuses labels with a single class."""
    if len(classes) < 2:
        raise InputError(f"{source} has only the label {classes[0]!r} in {column!r}: two classes are needed")


def _named(spec: TaskSpec, table: Columns, values: Sequence[Any], source: str) -> NDArray[np.int64]:
    """[N], the task's class ids of labels with names in the table; -1 for rows without a label."""
    names = table.classes[spec.label_column]
    known = np.asarray([value is not None and value != -1 for value in values], np.bool_)
    labels = [value for value, its in zip(values, known, strict=True) if its]
    for label in labels:
        if type(label) is not int or label not in range(len(names)):
            raise InputError(
                f"{source} has the label {reprlib.repr(label)} in {spec.label_column!r}, which has {len(names)} "
                "classes: it is damaged"
            )
    found = np.full(len(values), -1, np.int64)
    found[known] = _class_ids(spec, [names[label] for label in labels], source)
    return found


def _labelled(rows: Rows, source: str) -> Rows:
    """The rows that have a class."""
    kept = np.flatnonzero(rows.labels >= 0)
    if not len(kept):
        raise InputError(f"{source} has no labels: they are hidden")
    if len(kept) == len(rows):
        return rows
    logger.warning("%s has %d rows without a label, which are left out", source, len(rows) - len(kept))
    return rows.select(kept)


def _in_order(values: Sequence[Any]) -> Callable[[Any], Any]:
    """The sort key of labels: numeric if all are whole numbers (also as strings), else alphabetic."""
    whole = all(
        not isinstance(value, str) or (len(value) <= DIGITS and value.removeprefix("-").isdecimal()) for value in values
    )
    return int if whole else str


def _class_ids(spec: TaskSpec, values: Sequence[Any], source: str) -> NDArray[np.int64]:
    known = {name: i for i, name in enumerate(spec.classes)}
    names = [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in values]
    for name in names:
        if name not in known:
            raise InputError(
                f"{source} has the label {reprlib.repr(name)}, which the training data ({', '.join(known):.200}) "
                "has not"
            )
    return np.asarray([known[name] for name in names], np.int64)


def _values(table: Columns, column: str, source: str) -> list[Any]:
    """A column's values as Python objects."""
    if column not in table:
        raise InputError(f"{source} has no column {column!r}: it has {', '.join(table)}")
    try:
        return table[column]
    except Exception as error:  # e.g. invalid UTF-8, invalid dates
        raise InputError(f"{source} has values in {column!r} that cannot be read ({error!s:.200})") from error


def _check_labels(values: Sequence[Any], column: str, source: str) -> None:
    """Refuses labels that are neither text nor numbers."""
    for value in values:
        if not isinstance(value, str | int | float) or (isinstance(value, str) and not encodable(value)):
            raise InputError(
                f"{source} has the label {reprlib.repr(value)} in {column!r}: labels are text, whole numbers, "
                "or numbers"
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
