from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import Task, load, spec_of

Write = Callable[[str, Sequence[dict[str, Any]]], Path]
Load = Callable[..., Task]


@pytest.fixture
def mine(tokenizer: PreTrainedTokenizerBase) -> Load:
    return partial(load, "mine", tokenizer, text_columns=["words"], label_column="mood")


def rows(labels: Sequence[Any]) -> list[dict[str, Any]]:
    endings = ("", ", and more", ' "so"')
    return [{"words": f"we liked {i}{endings[i % 3]}", "mood": label} for i, label in enumerate(labels)]


def in_every_format(folder: Path, content: list[dict[str, Any]], write: Write) -> list[Path]:
    paths = [write("a.jsonl", content), write("a.json", content)]
    for ending, separator in ((".csv", ","), (".tsv", "\t")):
        with (folder / f"a{ending}").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(content)
    datasets.Dataset.from_list(content).to_parquet(str(folder / "a.parquet"))
    return [*paths, folder / "a.csv", folder / "a.tsv", folder / "a.parquet"]


@pytest.mark.parametrize("labels", [["sad", "glad", "meh"] * 10, [10, 9, 2] * 10, [0.5, 1.0, 2.25] * 10])
def test_all_formats_agree(labels: list[Any], tmp_path: Path, mine: Load, write: Write) -> None:
    first, *others = (mine(data=path) for path in in_every_format(tmp_path, rows(labels), write))
    for other in others:
        assert other.spec == first.spec
        for one, two in ((first.train, other.train), (first.reward, other.reward)):
            assert one.ids.tolist() == two.ids.tolist()
            assert one.labels.tolist() == two.labels.tolist()
            assert one.inputs["input_ids"].tolist() == two.inputs["input_ids"].tolist()


def test_classes_in_order(mine: Load, write: Write) -> None:
    words = mine(data=write("a.jsonl", rows(["sad", "glad"] * 20)))
    assert words.spec.classes == ("glad", "sad")
    assert words.train.labels.tolist() == [1 - i % 2 for i in words.train.ids.tolist()]
    numbers = mine(data=write("b.jsonl", rows([10, 9] * 20)))
    assert numbers.spec.classes == ("9", "10")
    assert numbers.spec.metrics == ("accuracy",)
    whole = mine(data=write("c.jsonl", rows([1.0, 0.0] * 20)))
    assert whole.spec.classes == ("0", "1")


def test_other_numbers_are_regression(mine: Load, write: Write) -> None:
    task = mine(data=write("a.jsonl", rows([i / 4 for i in range(40)])))
    assert task.spec.regression
    assert task.spec.metrics == ("pearson", "spearman")
    assert task.train.labels.dtype == np.float32
    assert task.train.labels.tolist() == [i / 4 for i in task.train.ids.tolist()]


def test_dev_is_a_fifth_cut_by_seed_and_stratified(mine: Load, write: Write) -> None:
    path = write("a.jsonl", rows(["sad", "glad", "sad", "sad"] * 25))
    task, again, other = (mine(data=path, seed=seed) for seed in (0, 0, 1))
    dev = task.dev["validation"]
    assert len(dev) == 20
    assert np.bincount(dev.labels).tolist() == [5, 15]
    ids = [*task.train.ids, *task.reward.ids, *dev.ids]
    assert sorted(ids) == list(range(100))
    assert again.dev["validation"].ids.tolist() == dev.ids.tolist() != other.dev["validation"].ids.tolist()


def test_own_dev_data(mine: Load, write: Write) -> None:
    path, dev = write("a.jsonl", rows(["sad", "glad"] * 20)), write("d.jsonl", rows(["sad"] * 3))
    task = mine(data=path, dev_data=dev)
    assert task.dev["validation"].labels.tolist() == [1, 1, 1]
    assert len(task.train) + len(task.reward) == 40
    with pytest.raises(InputError, match=r"d2\.jsonl.*'angry'.*glad, sad"):
        mine(data=path, dev_data=write("d2.jsonl", rows(["sad", "angry"])))
    with pytest.raises(InputError, match=r"none\.jsonl"):
        mine(data=path, dev_data=path.with_name("none.jsonl"))


def test_spec_of_a_file(write: Write) -> None:
    path = write("a.jsonl", rows(["sad", "glad"] * 20))
    spec = spec_of("mine", data=path, text_columns=["words"], label_column="mood")
    assert (spec.name, spec.classes, spec.text_columns) == ("mine", ("glad", "sad"), ("words",))


@pytest.mark.parametrize("columns", [{"sentence": 0}, {"text": 1, "sentence": 2}, {"a": 0}, {"premise": 0, "b": 1}])
@pytest.mark.parametrize("label", ["label", "labels"])
def test_columns_need_no_names_where_it_is_clear_which_they_are(
    columns: dict[str, int], label: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    content = [{name: f"a text {k + i}" for name, k in columns.items()} | {label: i % 2, "place": i} for i in range(40)]
    path = write("a.jsonl", content)
    with caplog.at_level(logging.INFO, "ackd"):
        spec = spec_of("mine", data=path)
    assert spec.text_columns == (("text",) if "text" in columns else tuple(columns))
    assert (spec.label_column, spec.classes) == (label, ("0", "1"))
    assert (" and ".join(spec.text_columns) in caplog.text) == (spec.text_columns[0] not in ("text", "sentence"))


def test_three_columns_of_text_must_be_named(write: Write) -> None:
    content = [{"one": "a", "two": "b", "three": "c", "label": i % 2} for i in range(40)]
    path = write("a.jsonl", content)
    with pytest.raises(InputError, match=r"--text-columns.*one, two, three"):
        spec_of("mine", data=path)


@pytest.mark.parametrize(("columns", "label"), [(["words"], None), (["words", "words", "words"], "mood")])
def test_columns_must_be_named(
    columns: list[str], label: str | None, write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write("a.jsonl", rows(["sad", "glad"] * 20))
    with pytest.raises(InputError, match="words, mood"):
        load("mine", tokenizer, data=path, text_columns=columns, label_column=label)


def test_a_missing_column_is_named(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write("a.jsonl", rows(["sad", "glad"] * 20))
    with pytest.raises(InputError, match=r"'text'.*words, mood"):
        load("mine", tokenizer, data=path, text_columns=["text"], label_column="mood")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"words": None, "mood": "sad"}, *rows(["sad", "glad"] * 20)], "words"),
        (rows([None, *["sad", "glad"] * 20]), "mood"),
        (rows([float("nan"), *[0.5, 1.5] * 20]), "mood"),
        (rows(["sad"] * 40), "'sad'"),
        (rows(["sad", "glad"]), r"mine has \d .*at least 8"),
    ],
    ids=["no text", "no label", "nan label", "one class", "too few"],
)
def test_unfit_rows(content: list[dict[str, Any]], message: str, mine: Load, write: Write) -> None:
    with pytest.raises(InputError, match=message):
        mine(data=write("a.jsonl", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("null\n", "no JSON object in line 1"),  # pyarrow's own reader of JSON ends the process here
        ('{"words": "a", "mood": 1}\n\n3\n', "no JSON object in line 3"),
        ('{"words": "a", "mood":\n1}\n', "no JSON object in line 1"),
        ('[{"words": "a", "mood": 1}, null]', "no list of JSON objects: look at number 2"),
        ('[{"words": "a"', "no list of JSON objects$"),
        ("[" * 100_000, "no list of JSON objects$"),
        ('{"words": "a", "mood": ' + "9" * 5000 + "}\n", "no JSON object in line 1"),
        ('{"words": "\\ud800", "mood": 1}\n{"words": "a", "mood": 0}\n', "no text in 'words', row 1"),
        ('{"words": "a", "mood": "\\ud800"}\n', r"the label '\\ud800'"),
        ('{"words": "a", "mood": 1}\n{"words": "b", "mood": "1"}\n', "labels of more than one kind in 'mood'"),
        ('{"words": "a", "mood": 1}\n{"words": "b", "mood": true}\n', "labels of more than one kind in 'mood'"),
    ],
)
def test_json_that_holds_something_else(content: str, message: str, tmp_path: Path, mine: Load) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        mine(data=tmp_path / "a.json")


def test_a_list_of_objects_is_as_good_as_lines(tmp_path: Path, mine: Load, write: Write) -> None:
    content = rows(["sad", "glad"] * 20)
    (tmp_path / "list.json").write_text("\ufeff\n" + json.dumps(content, indent=1), encoding="utf-8")
    listed, lines = mine(data=tmp_path / "list.json"), mine(data=write("a.jsonl", content))
    assert listed.train.fingerprint == lines.train.fingerprint
    assert listed.train.labels.tolist() == lines.train.labels.tolist()


def test_files_without_rows_or_of_another_kind(tmp_path: Path, mine: Load) -> None:
    (tmp_path / "a.csv").write_text("words,mood\n")
    with pytest.raises(InputError, match=r"a\.csv"):
        mine(data=tmp_path / "a.csv")
    (tmp_path / "a.xlsx").write_text("words")
    with pytest.raises(InputError, match=r"\.xlsx.*\.csv, \.tsv, \.jsonl, \.json, \.parquet"):
        mine(data=tmp_path / "a.xlsx")
    (tmp_path / "a.parquet").write_text("words")
    with pytest.raises(InputError, match=r"a\.parquet"):
        mine(data=tmp_path / "a.parquet")
