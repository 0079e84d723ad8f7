from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import GLUE, Split, Task, load

Write = Callable[[str, Sequence[dict[str, Any]]], Path]
Load = Callable[..., Task]


@pytest.fixture
def mine(tokenizer: PreTrainedTokenizerBase) -> Load:
    return partial(load, "mine", tokenizer, text_columns=["words"], label_column="mood")


def rows(labels: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"words": f"we liked {i}", "mood": label} for i, label in enumerate(labels)]


def stored(place: Path, name: str, **splits: Sequence[float]) -> Path:
    (place / name).mkdir(parents=True)
    for split, labels in splits.items():
        texts = {column: [f"we liked {i}" for i in range(len(labels))] for column in GLUE[name].text_columns}
        file = place / name / f"{split.replace('_', '-')}.parquet"
        datasets.Dataset.from_dict({**texts, "label": labels}).to_parquet(str(file))
    return place


def test_hidden_values_name_their_split(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = stored(tmp_path, "stsb", train=[0.5, 4.5] * 20, validation=[-1.0] * 20)
    with pytest.raises(InputError, match=r"validation .*stsb.*-1"):
        load("stsb", tokenizer, data=data)


@pytest.mark.parametrize("parts", [["train_00000_of_00002"], ["train", "train_00000_of_00001"]])
def test_an_incomplete_or_doubled_split(parts: list[str], tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = stored(tmp_path, "sst2", validation=[0, 1] * 20, **{part: [0, 1] * 20 for part in parts})
    with pytest.raises(InputError, match=r"train split.*part or is there twice.*00000-of"):
        load("sst2", tokenizer, data=data)


def test_dev_labels_of_another_kind(mine: Load, write: Write) -> None:
    classes, values = write("a.jsonl", rows([0, 1] * 20)), write("b.jsonl", rows([0.5, 1.0] * 20))
    with pytest.raises(InputError, match=r"c\.jsonl.*'1\.5'.*0, 1"):
        mine(data=classes, dev_data=write("c.jsonl", rows([1.5] * 4)))
    with pytest.raises(InputError, match=r"d\.jsonl.*'sad'.*numbers"):
        mine(data=values, dev_data=write("d.jsonl", rows(["sad"] * 4)))
    with pytest.raises(InputError, match=r"e\.jsonl.*None.*numbers"):
        mine(data=values, dev_data=write("e.jsonl", rows([0.5, None] * 2)))


def test_numbers_with_decimals_among_words(mine: Load, write: Write) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl.*'sad'.*numbers"):
        mine(data=write("a.jsonl", rows(["sad", 0.5, 1.0, 2.0] * 10)))


def test_whole_numbers_sort_by_size_also_as_strings(mine: Load, write: Write) -> None:
    assert mine(data=write("a.jsonl", rows(["10", "9"] * 20))).spec.classes == ("9", "10")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file(name: str, content: str, tmp_path: Path, mine: Load) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} has no rows"):
        mine(data=tmp_path / name)


def test_a_header_alone(tmp_path: Path, mine: Load) -> None:
    (tmp_path / "a.csv").write_text("words,mood\n")
    with pytest.raises(InputError, match=r"a\.csv has no rows"):
        mine(data=tmp_path / "a.csv")


def test_commas_without_quotes_shift_no_columns(tmp_path: Path, mine: Load) -> None:
    (tmp_path / "a.csv").write_text("words,mood\n" + "calm, they said,1\nloud, they said,0\n" * 10)
    with pytest.raises(InputError, match="more fields than its first line names"):
        mine(data=tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a[1].jsonl", "a b.jsonl"])
def test_any_file_name(name: str, mine: Load, write: Write) -> None:
    assert len(mine(data=write(name, rows([0, 1] * 20))).train)


@pytest.mark.parametrize(("classes", "reward"), [(2, 1), (7, 8), (40, 8), (3, 10**6)])
def test_the_reward_split_has_as_many_as_asked(classes: int, reward: int, mine: Load, write: Write) -> None:
    path = write("a.jsonl", rows([i % classes for i in range(402)]))
    task = mine(data=path, dev_data=path, reward_examples=reward)
    assert len(task.reward) == min(reward, 201)
    expected = len(task.reward) * np.bincount([i % classes for i in range(402)]) / 402
    assert (abs(np.bincount(task.reward.labels, minlength=classes) - expected) < 1).all()


@pytest.mark.parametrize("answers", [[1, 1 + 1e-14, 1, 1], [np.nan] * 4, [1, np.inf, 2, 3]])
def test_answers_without_a_correlation_warn_of_nothing(answers: list[float]) -> None:
    nothing = Split({}, np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), {})
    found = Task(GLUE["stsb"], nothing, nothing, {}).metrics(np.array(answers)[:, None], np.arange(4.0))
    assert all(np.isfinite(value) for value in found.values())
