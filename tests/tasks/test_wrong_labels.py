"""Labels that are made wrong on purpose: how many, where, and where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import Split, Task, load

CLASSES = ("bad", "fair", "good")


def write(folder: Path, labels: list[Any]) -> Path:
    """A file of one sentence for each label."""
    path = folder / "rows.jsonl"
    lines = (json.dumps({"words": f"we liked number {i}", "mood": label}) for i, label in enumerate(labels))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def load_mine(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    path = write(tmp_path, [CLASSES[i % 3] for i in range(600)])

    def mine(share: float, **changes: Any) -> Task:
        columns: dict[str, Any] = {"data": path, "text_columns": ["words"], "label_column": "mood"}
        return load("mine", tokenizer, **columns, **{"reward_examples": 100, "wrong_labels": share, **changes})

    return mine


def changed(one: Split, other: Split) -> np.ndarray[Any, Any]:
    """Which examples have another label, where nothing else differs."""
    assert one.ids.tolist() == other.ids.tolist()
    assert one.inputs["input_ids"].tolist() == other.inputs["input_ids"].tolist()
    return np.flatnonzero(one.labels != other.labels)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.25, 0.999])
@pytest.mark.parametrize("reward_from", ["train", "dev:0.5"])
def test_just_that_share_of_train_and_rewards_is_wrong_and_dev_is_not(
    load_mine: Any, share: float, reward_from: str
) -> None:
    right, wrong = (load_mine(each, reward_from=reward_from) for each in (0.0, share))
    for split in ("train", "reward"):
        one, other = getattr(right, split), getattr(wrong, split)
        assert len(changed(one, other)) == round(share * len(one))
        assert set(other.labels.tolist()) <= {0, 1, 2}
    assert len(changed(right.dev["validation"], wrong.dev["validation"])) == 0
    assert wrong.seen == right.seen  # the rows are the same for whoever asks what was learned from


def test_a_wrong_label_is_any_other_class_and_the_seed_says_which(load_mine: Any) -> None:
    right, wrong, again = load_mine(0.0), load_mine(0.9), load_mine(0.9)
    shifts = (wrong.train.labels - right.train.labels) % 3
    ones, twos = (int((shifts == shift).sum()) for shift in (1, 2))
    assert abs(ones - twos) < 4 * np.sqrt(ones + twos)  # as often the one as the other, by four deviations
    assert wrong.train.labels.tolist() == again.train.labels.tolist()
    other = load_mine(0.9, seed=1)
    same = np.intersect1d(wrong.train.ids, other.train.ids)
    of = [dict(zip(task.train.ids.tolist(), task.train.labels.tolist(), strict=True)) for task in (wrong, other)]
    assert any(of[0][i] != of[1][i] for i in same.tolist())


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(load_mine: Any, share: float) -> None:
    with pytest.raises(InputError, match=r"^--wrong-labels is \S+ on mine: give a share from 0 up and below 1[^\n]*$"):
        load_mine(share)


def test_numbers_have_no_wrong_class(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write(tmp_path, [i / 7 for i in range(100)])
    columns: dict[str, Any] = {"data": path, "text_columns": ["words"], "label_column": "mood"}
    assert load("mine", tokenizer, **columns, wrong_labels=0.0).spec.regression
    with pytest.raises(InputError, match=r"--wrong-labels is 0\.1 on mine: .* of a task with classes"):
        load("mine", tokenizer, **columns, wrong_labels=0.1)
