"""A user's own data: a file, a folder that `save_to_disk` wrote, or a data set of the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ackd.errors import InputError
from ackd.tasks.data_sets import is_saved, splits_of
from ackd.tasks.read import Columns, from_file
from ackd.tasks.rows import Rows, has_labels, own_dev, own_rows, texts_alone
from ackd.tasks.spec import TaskSpec
from ackd.tasks.task import TRAIN

logger = logging.getLogger("ackd")

DEV = ("validation", "valid", "val", "dev", "eval", "test")  # what a split to report on is called, the best one first
TEST = "test"


def is_own(data: str | Path | None, text_columns: Sequence[str] = (), label_column: str | None = None) -> bool:
    """Whether data is a user's own, rather than GLUE or generated: it says itself what its columns are."""
    if data is None:
        return False
    return bool(text_columns or label_column) or Path(data).is_file() or is_saved(Path(data))


def own_spec(name: str, data: str | Path, text_columns: Sequence[str], label_column: str | None) -> TaskSpec:
    """The task that a user's own data is.

    Raises:
        InputError: as `own_task`.
    """
    if Path(data).is_file():
        return own_rows(name, from_file(Path(data)), str(data), text_columns, label_column)[0]
    split, table = _train(splits_of(str(data)), str(data))
    return own_rows(name, table, _called(split, data), text_columns, label_column)[0]


def own_task(
    name: str,
    data: str | Path,
    text_columns: Sequence[str],
    label_column: str | None,
    dev_data: str | Path | None = None,
) -> tuple[TaskSpec, Rows, dict[str, Rows] | None]:
    """The task, its training data, and what is reported on by its split's name; None if that has to be cut.

    Of a data set, train is `train` or the only split; dev is `dev_data`, or else the first of `DEV` that has labels,
    and what was taken is told where it is not `validation`.

    Raises:
        InputError: if data, a split or a column is missing, or labels or texts are unfit.
    """
    splits, first = {}, TRAIN
    if Path(data).is_file():
        spec, train = own_rows(name, from_file(Path(data)), str(data), text_columns, label_column)
    else:
        splits = splits_of(str(data))
        first, table = _train(splits, str(data))
        spec, train = own_rows(name, table, _called(first, data), text_columns, label_column)
    if dev_data is not None:
        return spec, train, {DEV[0]: own_dev(spec, from_file(Path(dev_data)), str(dev_data))}
    for split in DEV:
        if split != first and split in splits and has_labels(splits[split], spec.label_column, _called(split, data)):
            if split != DEV[0]:
                logger.warning("%s has no split %s with labels: dev is its split %s", data, DEV[0], split)
            dev = own_dev(spec, splits[split], _called(split, data))
            return replace(spec, validation=(split,)), train, {split: dev}
    if splits:
        logger.warning("%s has no split for dev with labels: dev is a part of its split %s", data, first)
    return spec, train, None


def own_texts(name: str, data: str | Path, text_columns: Sequence[str], split: str | None) -> Rows:
    """The texts alone, of a file or of a data set's split.

    Args:
        name: of the task.
        data: as `own_task` takes it.
        text_columns: one or two.
        split: of a data set; `test`, or the only one, if None.

    Raises:
        InputError: if data, a split or a column is missing, or it holds anything but text.
    """
    if Path(data).is_file():
        if split is not None:
            raise InputError(f"{data} is a file, which has no split {split!r}: leave --split away")
        table, source = from_file(Path(data)), str(data)
    else:
        splits = splits_of(str(data))
        chosen = split or (TEST if len(splits) != 1 else next(iter(splits)))
        table, source = _split(splits, chosen, str(data), "name one with --split"), _called(chosen, data)
    if not 1 <= len(text_columns) <= 2:
        raise InputError(f"name the columns of {source} with --text-columns (one or two): it has {', '.join(table)}")
    return texts_alone(TaskSpec(name, tuple(text_columns), "", ("0", "1"), ()), table, source)


def _train(splits: Mapping[str, Columns], data: str) -> tuple[str, Columns]:
    name = TRAIN if len(splits) != 1 else next(iter(splits))
    return name, _split(splits, name, data, "call one of them train, or save it alone")


def _split(splits: Mapping[str, Columns], name: str, data: str, instead: str) -> Columns:
    """The split of that name."""
    if name not in splits:
        raise InputError(f"{data} has no split {name}: it has {', '.join(splits) or 'none'}; {instead}")
    return splits[name]


def _called(split: str, data: str | Path) -> str:
    return f"the {split} split of {data}"
