"""The user's own data: a file, a folder written by `save_to_disk`, a data set of the hub, or an object."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ackd.errors import InputError
from ackd.tasks.data_sets import Data, columns_of, given_splits, is_named, is_saved, splits_of
from ackd.tasks.read import Columns, from_file
from ackd.tasks.rows import Rows, has_labels, own_dev, own_rows, texts_alone
from ackd.tasks.spec import TaskSpec
from ackd.tasks.task import TRAIN

logger = logging.getLogger("ackd")

DEV = ("validation", "valid", "val", "dev", "eval", "test")  # names of splits to report on, by preference
TEST = "test"


def is_own(data: Data | None, text_columns: Sequence[str] = (), label_column: str | None = None) -> bool:
    """Whether data is the user's own, not GLUE and not generated."""
    if data is None:
        return False
    if not is_named(data):
        return True
    return bool(text_columns or label_column) or Path(data).is_file() or is_saved(Path(data))


def own_spec(name: str, data: Data, text_columns: Sequence[str], label_column: str | None) -> TaskSpec:
    """The specification of a task on the user's own data.

    Raises:
        InputError: see `own_task`.
    """
    return _read(name, data, text_columns, label_column)[0]


def own_task(
    name: str,
    data: Data,
    text_columns: Sequence[str],
    label_column: str | None,
    dev_data: Data | None = None,
) -> tuple[TaskSpec, Rows, dict[str, Rows] | None]:
    """The task's specification, training data, and dev data by split name.

    Dev data is None if it must be cut from the training data.
    The training data of a data set is the split `train`, or the only split. Dev is `dev_data`, or else the first of
    `DEV` with labels; a warning is logged if this is not `validation`.

    Raises:
        InputError: if data, a split or a column is missing, or labels or texts are invalid.
    """
    spec, train, splits, first = _read(name, data, text_columns, label_column)
    if dev_data is not None:
        return spec, train, {DEV[0]: own_dev(spec, alone(dev_data), called(None, dev_data))}
    for split in DEV:
        if split != first and split in splits and has_labels(splits[split], spec.label_column, called(split, data)):
            if split != DEV[0]:
                logger.warning("%s has no split %s with labels: dev is its split %s", _name(data), DEV[0], split)
            dev = own_dev(spec, splits[split], called(split, data))
            return replace(spec, validation=(split,)), train, {split: dev}
    if splits and first is not None:
        logger.warning("%s has no split for dev with labels: dev is a part of its split %s", _name(data), first)
    return spec, train, None


def _read(
    name: str, data: Data, text_columns: Sequence[str], label_column: str | None
) -> tuple[TaskSpec, Rows, Mapping[str, Columns], str | None]:
    """The task's specification, training data, all splits, and the training split's name.

    If the data has no splits, they are empty and the name is None.
    """
    table, splits, first = train_and_splits(data)
    source = called(first, data)
    spec, train = own_rows(name, table, source, *columns_of(table, source, text_columns, label_column))
    return spec, train, splits, first


def train_and_splits(data: Data) -> tuple[Columns, Mapping[str, Columns], str | None]:
    """The training split of data, all splits by name, and the training split's name.

    If the data has no splits, they are empty and the name is None.

    Raises:
        InputError: if the data cannot be loaded, or has several splits and none is called train.
    """
    table, splits = _splits(data)
    if table is not None:
        return table, splits, None
    first, table = _train(splits, _name(data))
    return table, splits, first


def _splits(data: Data) -> tuple[Columns | None, Mapping[str, Columns]]:
    """Loads data as a single table without splits, or as splits by name."""
    if not is_named(data):
        return given_splits(data)
    if Path(data).is_file():
        return from_file(Path(data)), {}
    return None, splits_of(str(data))


def alone(data: Data) -> Columns:
    """Loads data that must be a single table or have a single split."""
    if is_named(data):
        return from_file(Path(data))
    table, splits = given_splits(data)
    if table is None and len(splits) != 1:
        raise InputError(f"the dev data set has the splits {', '.join(splits)}: give one of them")
    return table if table is not None else next(iter(splits.values()))


def own_texts(name: str, data: Data, text_columns: Sequence[str], split: str | None) -> Rows:
    """The texts, without labels, of a file or of a data set's split.

    Args:
        name: the task's name.
        data: see `own_task`.
        text_columns: one or two; if empty, see `columns_of`.
        split: split of a data set; None: `test`, or the only split.

    Raises:
        InputError: if data, a split or a column is missing, or a column contains values that are no text.
    """
    table, splits = _splits(data)
    chosen = None
    if table is None:
        chosen = split or (TEST if len(splits) != 1 else next(iter(splits)))
        table = _split(splits, chosen, _name(data), "name one with --split")
    elif split is not None:
        what = "a file" if is_named(data) else "a Dataset"
        raise InputError(f"{_name(data)} is {what}, which has no split {split!r}: leave --split away")
    source = called(chosen, data)
    text_columns, _ = columns_of(table, source, text_columns, None)
    if not 1 <= len(text_columns) <= 2:
        raise InputError(f"name the columns of {source} with --text-columns (one or two): it has {', '.join(table)}")
    return texts_alone(TaskSpec(name, tuple(text_columns), "", ("0", "1"), ()), table, source)


def _train(splits: Mapping[str, Columns], data: str) -> tuple[str, Columns]:
    name = TRAIN if len(splits) != 1 else next(iter(splits))
    return name, _split(splits, name, data, "call one of them train, or save it alone")


def _split(splits: Mapping[str, Columns], name: str, data: str, instead: str) -> Columns:
    """The split called `name`."""
    if name not in splits:
        raise InputError(f"{data} has no split {name}: it has {', '.join(splits) or 'none'}; {instead}")
    return splits[name]


def _name(data: Data) -> str:
    return str(data) if is_named(data) else "the data set"


def called(split: str | None, data: Data) -> str:
    """The name of data, or of one of its splits, in messages."""
    return _name(data) if split is None else f"the {split} split of {_name(data)}"
