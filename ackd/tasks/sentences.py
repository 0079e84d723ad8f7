"""The task `embeddings`: training on sentences without labels, and reports on scored pairs of sentences."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ackd.errors import InputError
from ackd.tasks.data_sets import LABELS, Data, columns_of, is_named, is_text
from ackd.tasks.glue import GLUE
from ackd.tasks.own import DEV, alone, called, is_own, train_and_splits
from ackd.tasks.read import Columns
from ackd.tasks.rows import Rows, glue_rows, own_dev, texts_alone
from ackd.tasks.spec import TaskSpec

logger = logging.getLogger("ackd")

EMBEDDINGS = "embeddings"
PAIRS = GLUE["stsb"]  # the default data
SCORES = (*LABELS, "score")  # usual names of a score column
METRICS = ("spearman", "recall@1", "mrr")
GIVE = "give a file of scored pairs with --dev-data: two text columns, and one of numbers"


def sentence_spec(text_columns: Sequence[str] = PAIRS.text_columns) -> TaskSpec:
    """The specification of the task."""
    return TaskSpec(EMBEDDINGS, tuple(text_columns), "score", (), METRICS, sentences=True)


def sentence_task(
    data: Data | None, text_columns: Sequence[str], label_column: str | None, dev_data: Data | None
) -> tuple[TaskSpec, Rows, dict[str, Rows]]:
    """The task's specification, its training sentences (one column, labels 0), and its pairs by split.

    Without own data, sentences and pairs are those of STS-B. The sentences of two text columns are merged. Pairs come
    from `dev_data`, or from the first split of `DEV` with two text columns and scores.

    Raises:
        InputError: if there are no sentences or no pairs, or a column is missing or damaged.
    """
    pairs = None if dev_data is None else _pairs(alone(dev_data), called(None, dev_data), text_columns, label_column)
    if not is_own(data, text_columns, label_column):
        assert data is None or is_named(data)
        rows = glue_rows(PAIRS, data, "train")
        dev = glue_rows(PAIRS, data, "validation") if pairs is None else pairs
        return sentence_spec(), _sentences(rows, "STS-B"), {DEV[0]: dev}
    assert data is not None
    table, splits, first = train_and_splits(data)
    source = called(first, data)
    columns, _ = columns_of(table, source, [one for one in text_columns if one in table] or text_columns, label_column)
    if not 1 <= len(columns) <= 2:
        raise InputError(f"name the text of {source} with --text-columns (one or two): it has {', '.join(table)}")
    spec = sentence_spec(columns)
    rows = _sentences(texts_alone(spec, table, source), source)
    if pairs is not None:
        return spec, rows, {DEV[0]: pairs}
    for split in DEV:
        if split != first and split in splits and _scored(splits[split], text_columns, label_column) is not None:
            return spec, rows, {split: _pairs(splits[split], called(split, data), text_columns, label_column)}
    raise InputError(f"{source} has no pairs to report on: {GIVE}")


def check_labels(spec: TaskSpec, what: str) -> None:
    """Checks that a task has labels of its own: classes or numbers.

    Args:
        spec: the task.
        what: what needs labels, for the message.

    Raises:
        InputError: if the task has none.
    """
    if spec.sentences or spec.language:
        lacking, more = ("classes", ", pretrain") if spec.language else ("labels", "")
        way = f"use ackd distill{more}, train or evaluate"
        raise InputError(f"the task {spec.name} has no {lacking}, but {what} needs them: {way}")


def interleaved(rows: Rows) -> Rows:
    """Rows with one text column, from rows with two: the first text of each row, followed by the second."""
    if len(rows.texts) == 1:
        return rows
    texts = [text for pair in zip(*rows.texts, strict=True) for text in pair]
    ids = np.stack([2 * rows.ids, 2 * rows.ids + 1], 1).reshape(-1)
    return Rows((texts,), np.repeat(rows.labels, 2), ids)


def _sentences(rows: Rows, source: str) -> Rows:
    """The distinct sentences of all columns, in the order of the rows, without empty ones."""
    texts = [text.strip() for row in zip(*rows.texts, strict=True) for text in row]
    if empty := texts.count(""):
        logger.warning("%s has %d empty sentences, which are left out", source, empty)
    sentences = [text for text in dict.fromkeys(texts) if text]
    if not sentences:
        raise InputError(f"{source} has no sentences: give a file with a sentence in each line, or a text column")
    return Rows((sentences,), np.zeros(len(sentences), np.float32), np.arange(len(sentences)))


def _scored(
    table: Columns, text_columns: Sequence[str], label_column: str | None
) -> tuple[tuple[str, ...], str] | None:
    """The two text columns and the scores of pairs; None if a table has none."""
    texts = tuple(name for name in text_columns if name in table)
    if len(texts) != 2:
        texts = tuple(name for name in table if name not in (label_column, *SCORES) and is_text(table[name]))
    label = label_column if label_column in table else next((name for name in SCORES if name in table), None)
    return (texts, label) if len(texts) == 2 and label is not None else None


def _pairs(table: Columns, source: str, text_columns: Sequence[str], label_column: str | None) -> Rows:
    found = _scored(table, text_columns, label_column)
    if found is None:
        raise InputError(
            f"{source} has the columns {', '.join(table)}, and pairs need two text columns and one of scores: call the "
            f"scores {', '.join(SCORES[:-1])} or {SCORES[-1]}, or name their column with --label-column"
        )
    texts, label = found
    rows = own_dev(TaskSpec(EMBEDDINGS, texts, label, (), ("spearman",)), table, source)
    for column in rows.texts:
        if "" in (stripped := [text.strip() for text in column]):
            raise InputError(f"{source} has an empty sentence in row {stripped.index('') + 1}: remove the row")
    if len(np.unique(rows.labels)) < 2 or rows.labels.min() < 0:
        raise InputError(f"the scores of {source} in {label!r} must be at least 0, and not all equal: give other pairs")
    return rows
