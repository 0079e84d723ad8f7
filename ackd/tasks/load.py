"""A task by its name, with its three splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError, unknown
from ackd.tasks.embedded import EMBEDDED, generate
from ackd.tasks.glue import GLUE
from ackd.tasks.rows import Rows, glue_rows, own_dev, own_rows
from ackd.tasks.spec import TaskSpec
from ackd.tasks.split import Split
from ackd.tasks.task import Task

REWARD_EXAMPLES = 256
DEV_EXAMPLES, DEV_SHARE = 2000, 0.2


def spec_of(
    name: str, *, data: str | Path | None = None, text_columns: Sequence[str] = (), label_column: str | None = None
) -> TaskSpec:
    """What the task is, without tokenising it.

    Raises:
        InputError: if it is not known, or `data` is a file that cannot be one.
    """
    if data is not None and Path(data).is_file():
        return own_rows(name, Path(data), text_columns, label_column)[0]
    if text_columns or label_column:
        raise InputError(
            f"columns are named, but the data ({data or 'none given'}) is no file: give --data with a file"
        )
    known = GLUE if data is not None else {**EMBEDDED, **GLUE}
    if data is not None and name in EMBEDDED:
        raise InputError(f"the task {name} is generated and takes no data: leave --data away")
    if name not in known:
        raise unknown("task", name, {**EMBEDDED, **GLUE})
    return known[name]


def load(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    data: str | Path | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    dev_data: str | Path | None = None,
    max_examples: int | None = None,
    reward_examples: int = REWARD_EXAMPLES,
    max_length: int = 128,
    seed: int = 0,
) -> Task:
    """The task, tokenised, with its train, reward and dev splits.

    Args:
        name: a GLUE task, a generated one, or any name where `data` is a file.
        tokenizer: of the teacher and the student.
        data: a folder in the hub's layout, or a file; the hub if None, unless the task is generated.
        text_columns: one or two, where `data` is a file.
        label_column: where `data` is a file.
        dev_data: a file to report on, where `data` is one; otherwise a fifth of `data`, drawn by `seed`.
        max_examples: of the training data, before the reward split is cut from it, drawn by `seed`.
        reward_examples: how many of those the reward split takes, half of them at most.
        max_length: tokens of an example.
        seed: of every cut.

    Raises:
        InputError: if any of it is missing or unfit, in one sentence.
    """
    if seed < 0:
        raise InputError(f"the seed of the data must be 0 or more, got {seed}")
    if reward_examples < 1:
        raise InputError(f"the reward split needs at least 1 example, got {reward_examples}")
    longest = min(tokenizer.model_max_length, 10**6)
    if not 4 <= max_length <= longest:
        raise InputError(f"the maximum length is {max_length}: this model takes 4 to {longest} tokens")
    rng = np.random.default_rng(seed)
    if data is not None and Path(data).is_file():
        spec, train = own_rows(name, Path(data), text_columns, label_column)
        if dev_data is not None:
            dev = {"validation": own_dev(spec, Path(dev_data))}
        else:
            kept, held = _cut(train.labels, min(DEV_EXAMPLES, round(DEV_SHARE * len(train))), rng)
            train, dev = train.select(kept), {"validation": train.select(held)}
    elif dev_data is not None:
        raise InputError(f"--dev-data goes with a file as --data, and {name} brings its own validation split")
    else:
        spec = spec_of(name, data=data, text_columns=text_columns, label_column=label_column)
        if name in EMBEDDED:
            train, dev = generate(name, "train"), {"validation": generate(name, "validation")}
        else:
            train = glue_rows(spec, data, "train")
            dev = {split: glue_rows(spec, data, split) for split in spec.validation}
    train = _limited(spec, train, max_examples, rng)
    kept, held = _cut(train.labels, reward_examples, rng)

    def tokenise(rows: Rows) -> Split:
        return Split.tokenise(rows.texts, rows.labels, rows.ids, tokenizer, max_length)

    everything = tokenise(train)
    reports = {split: tokenise(rows) for split, rows in dev.items()}
    return Task(spec, everything.select(kept), everything.select(held), reports)


def _limited(spec: TaskSpec, rows: Rows, most: int | None, rng: np.random.Generator) -> Rows:
    """At most so many rows, drawn at random."""
    least = 4 * spec.num_labels
    if most is not None and most < least:
        raise InputError(f"--max-examples is {most}: {spec.name} needs at least {least}")
    if len(rows) < least:
        raise InputError(f"{spec.name} has {len(rows)} training examples: it needs at least {least}")
    if most is None or most >= len(rows):
        return rows
    return rows.select(np.sort(rng.choice(len(rows), most, replace=False)))


def _cut(labels: NDArray[Any], count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places to keep and places to hold out: `count`, at most half, in each class the same share to within one.

    Systematic sampling: shuffle, sort by label, take every so-manyth from a random start. Regression needs no bins.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    count = max(1, min(count, len(labels) // 2))
    out = np.sort(order[((np.arange(count) + rng.random()) * len(labels) / count).astype(np.int64)])
    return np.setdiff1d(np.arange(len(labels)), out), out
