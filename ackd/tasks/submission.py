"""Files for GLUE's leaderboard: one per test split, with an index and a prediction in each row.

Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding, 2019,
https://openreview.net/forum?id=rJ4km2R5t7; names of files and predictions: https://gluebenchmark.com/faq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ackd.errors import InputError
from ackd.tasks.glue import GLUE
from ackd.tasks.rows import Rows, glue_texts
from ackd.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Submission:
    """The files of one task.

    Args:
        spec: the task.
        splits: the test split of each file; file names have no ending.
        words: the text of each class, in the order of the classes; empty for regression.
        limits: range to which regression predictions are clipped.
    """

    spec: TaskSpec
    splits: Mapping[str, str]
    words: tuple[str, ...]
    limits: tuple[float, float] = (-np.inf, np.inf)

    def rows(self, data: str | Path | None, split: str) -> Rows:
        """A test split without labels, in the order of its index.

        Raises:
            InputError: if the split cannot be loaded, or its index is damaged.
        """
        rows = glue_texts(self.spec, data, split)
        if len(set(rows.ids.tolist())) < len(rows):
            raise InputError(f"the {split} split of {self.spec.name} has two rows of one idx: it is damaged")
        return rows.select(np.argsort(rows.ids, kind="stable"))


def _submission(task: str, splits: str, *, numbered: bool = True) -> Submission:
    """The submission for files given as FILE:SPLIT; predictions are class ids if `numbered`, else class names."""
    spec = replace(GLUE["mnli"], name=task, validation=()) if task == "ax" else GLUE[task]
    words = tuple(map(str, range(len(spec.classes)))) if numbered else spec.classes
    files = dict(one.split(":") for one in splits.split())
    return Submission(spec, files, words, (0.0, 5.0) if spec.regression else (-np.inf, np.inf))


SUBMISSIONS: dict[str, Submission] = {
    one.spec.name: one
    for one in (
        _submission("cola", "CoLA:test"),
        _submission("sst2", "SST-2:test"),
        _submission("mrpc", "MRPC:test"),
        _submission("stsb", "STS-B:test"),
        _submission("qqp", "QQP:test"),
        _submission("mnli", "MNLI-m:test_matched MNLI-mm:test_mismatched", numbered=False),
        _submission("qnli", "QNLI:test", numbered=False),
        _submission("rte", "RTE:test", numbered=False),
        _submission("wnli", "WNLI:test"),
        _submission("ax", "AX:test", numbered=False),
    )
}
