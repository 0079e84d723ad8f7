"""Data sets of the hub, which is played here, and folders that the library's own `save_to_disk` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import Task, load, own_texts, spec_of

Load = Callable[..., Task]
MOODS = ["sad", "glad", "meh"]  # in no sorted order


@pytest.fixture
def mine(tokenizer: PreTrainedTokenizerBase) -> Load:
    return partial(load, "mine", tokenizer, text_columns=["words"], label_column="mood")


def split(labels: Sequence[Any], kind: Any = None, start: int = 0, **more: Any) -> datasets.Dataset:
    """Rows that are told apart, with a `ClassLabel` of `MOODS` unless `kind` is another."""
    columns = {"words": [f"we liked {start + i}" for i in range(len(labels))], "mood": list(labels), **more}
    table = datasets.Dataset.from_dict(columns)
    return table.cast_column("mood", kind or datasets.ClassLabel(names=MOODS))


def saved(place: Path, splits: Mapping[str, datasets.Dataset] | datasets.Dataset) -> str:
    whole = splits if isinstance(splits, datasets.Dataset) else datasets.DatasetDict(splits)
    whole.save_to_disk(str(place))
    return str(place)


TEXT, WHOLE, NUMBER = (datasets.Value(name) for name in ("string", "int64", "float64"))
TRAIN = split([0, 1, 2] * 20)


def test_named_classes_keep_their_order(tmp_path: Path, mine: Load) -> None:
    data = saved(tmp_path / "d", {"train": TRAIN, "validation": split([2, 2, 0], start=100)})
    task = mine(data=data)
    assert task.spec.classes == ("sad", "glad", "meh")
    assert task.spec.metrics == ("accuracy",)
    assert list(task.dev) == ["validation"]
    assert task.dev["validation"].labels.tolist() == [2, 2, 0]
    for part in (task.train, task.reward):
        assert part.labels.tolist() == [i % 3 for i in part.ids.tolist()]
    assert sorted([*task.train.ids, *task.reward.ids]) == list(range(60))
    spec = spec_of("mine", data=data, text_columns=["words"], label_column="mood")
    assert (spec.classes, spec.text_columns) == (task.spec.classes, ("words",))


@pytest.mark.parametrize(
    ("labels", "kind"), [(["sad", "glad", "meh"] * 10, TEXT), ([10, 9, 2] * 10, WHOLE), ([0.5, 1, 2.25] * 10, NUMBER)]
)
def test_other_labels_are_those_of_a_file(labels: list[Any], kind: Any, tmp_path: Path, mine: Load) -> None:
    table = split(labels, kind)
    table.to_parquet(str(tmp_path / "a.parquet"))
    one, other = mine(data=tmp_path / "a.parquet"), mine(data=saved(tmp_path / "d", table))
    assert one.spec == other.spec
    for name in ("train", "reward"):
        assert getattr(one, name).fingerprint == getattr(other, name).fingerprint
        assert getattr(one, name).labels.tolist() == getattr(other, name).labels.tolist()
    assert one.dev["validation"].fingerprint == other.dev["validation"].fingerprint


def test_pairs_and_parts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    table = split([0, 1, 2] * 20, answer=[f"they liked it {i}" for i in range(60)])
    datasets.DatasetDict(train=table).save_to_disk(str(tmp_path / "d"), num_shards={"train": 3})
    assert len(list((tmp_path / "d" / "train").glob("*.arrow"))) == 3
    task = load("pairs", tokenizer, data=tmp_path / "d", text_columns=["words", "answer"], label_column="mood")
    batch = task.train.batch([0])
    i = int(batch.ids)
    expected = tokenizer(f"we liked {i}", f"they liked it {i}")["input_ids"]
    assert batch.inputs["input_ids"][0].tolist() == expected


@pytest.mark.parametrize(
    ("splits", "dev", "said"),
    [
        ({"train": TRAIN, "validation": TRAIN, "test": TRAIN}, "validation", ""),
        (
            {"train": TRAIN, "test": split([1] * 5)},
            "test",
            "has no split validation with labels: dev is its split test",
        ),
        ({"train": TRAIN, "valid": split([1] * 5), "test": TRAIN}, "valid", "dev is its split valid"),
        ({"train": TRAIN, "validation": split([-1] * 5), "test": split([1] * 5)}, "test", "dev is its split test"),
        ({"train": TRAIN, "test": split([-1] * 5)}, None, "no split for dev with labels: dev is a part of its split"),
        ({"train": TRAIN, "test": split([None] * 5)}, None, "dev is a part of its split train"),
        ({"all": TRAIN}, None, "dev is a part of its split all"),
        ({"test": TRAIN}, None, "dev is a part of its split test"),
        ({"train": TRAIN, "validation": TRAIN.select([]), "test": split([1] * 5)}, "test", "dev is its split test"),
        ({"train": TRAIN, "test": TRAIN.remove_columns("mood")}, None, "dev is a part of its split train"),
    ],
)
def test_what_dev_is(
    splits: dict[str, datasets.Dataset],
    dev: str | None,
    said: str,
    tmp_path: Path,
    mine: Load,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = mine(data=saved(tmp_path / "d", splits), reward_examples=8)
    told = [record.getMessage() for record in caplog.records if "dev is" in record.getMessage()]
    assert [said in one for one in told] == [True] * bool(said)
    assert list(task.dev) == [dev or "validation"]
    assert task.spec.validation == (dev or "validation",)
    assert len(task.dev[dev or "validation"]) == (len(splits[dev]) if dev else 12)


def test_rows_without_a_class_are_left_out(tmp_path: Path, mine: Load, caplog: pytest.LogCaptureFixture) -> None:
    labels = [0, 1, 2, -1] * 10 + [None]
    task = mine(data=saved(tmp_path / "d", {"train": split(labels), "validation": split([1, -1, 2])}))
    ids = sorted([*task.train.ids.tolist(), *task.reward.ids.tolist()])
    assert ids == [i for i in range(40) if i % 4 != 3]
    assert (task.dev["validation"].labels.tolist(), task.dev["validation"].ids.tolist()) == ([1, 2], [0, 2])
    assert "the train split" in caplog.text
    assert "has 11 rows without a label, which are left out" in caplog.text


def test_dev_data_comes_before_a_split(tmp_path: Path, mine: Load) -> None:
    data = saved(tmp_path / "d", {"train": TRAIN, "validation": TRAIN})
    (tmp_path / "dev.csv").write_text("words,mood\nwe liked it,meh\nwe did not,sad\n")
    task = mine(data=data, dev_data=tmp_path / "dev.csv")
    assert task.dev["validation"].labels.tolist() == [2, 0]


def test_a_dev_split_goes_by_names_and_not_by_numbers(tmp_path: Path, mine: Load) -> None:
    other = split([0, 1], datasets.ClassLabel(names=["glad", "sad"]))
    data = saved(tmp_path / "d", {"train": TRAIN})
    other.save_to_disk(str(tmp_path / "d" / "test"))
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert mine(data=data).dev["test"].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("splits", "columns", "message"),
    [
        ({"train": TRAIN}, ("text", "mood"), r"train split of .* has no column 'text': it has words, mood"),
        ({"train": TRAIN}, ("words", "label"), r"train split of .* has no column 'label': it has words, mood"),
        ({"train": TRAIN}, ("words", None), r"--label-column: it has words, mood"),
        ({"a": TRAIN, "b": TRAIN}, ("words", "mood"), r"has no split train: it has a, b"),
        ({"train": split([[0], [1]] * 9, datasets.List(WHOLE))}, ("words", "mood"), r"label \[0\] in 'mood': labels"),
        ({"train": split([-1] * 9)}, ("words", "mood"), r"train split of .* has no labels: they are hidden"),
        ({"train": split(["a", None] * 9, TEXT)}, ("words", "mood"), r"a row without a label in 'mood'"),
        ({"train": split([0] * 9, datasets.ClassLabel(names=["a"]))}, ("words", "mood"), r"only the label 'a'"),
        ({"train": TRAIN.select([])}, ("words", "mood"), r"train split of .* has no rows"),
        ({"train": TRAIN, "test": split(["a"] * 9, TEXT)}, ("words", "mood"), r"test split.*'a'.*sad, glad, meh"),
        ({"train": TRAIN, "test": split([0.5], NUMBER)}, ("words", "mood"), r"test split of .* label '0.5'"),
        (
            {"train": split([0, 1] * 9, WHOLE), "test": split(["x"], TEXT)},
            ("words", "mood"),
            r"test split .* label 'x'",
        ),
        ({"train": TRAIN}, ("mood", "mood"), r"no text in 'mood', row 1: got 0"),
    ],
)
def test_one_sentence_for_what_is_unfit(
    splits: dict[str, datasets.Dataset],
    columns: tuple[str, str | None],
    message: str,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    if "test" in splits and splits["test"].features != splits["train"].features:  # which the library saves one by one
        for name, table in splits.items():
            table.save_to_disk(str(tmp_path / "d" / name))
        (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    else:
        saved(tmp_path / "d", splits)
    with pytest.raises(InputError, match=message) as caught:
        load("mine", tokenizer, data=tmp_path / "d", text_columns=columns[:1], label_column=columns[1])
    assert "\n" not in str(caught.value)


def test_columns_have_to_be_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=r"no data folder someone/moods; .* --text-columns"):
        load("sst2", tokenizer, data="someone/moods")
    with pytest.raises(InputError, match=r"--text-columns .* it has words, mood"):
        load("mine", tokenizer, data=saved(tmp_path / "d", TRAIN))


class Hub:
    """Stands in for the hub, and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Mapping[str, datasets.Dataset] | Exception) -> None:
        self.asked: list[Any] = []
        self.answer = answer
        monkeypatch.setattr(datasets, "load_dataset", self)

    def __call__(self, *given: Any, **named: Any) -> datasets.DatasetDict:
        self.asked.append((*given, named))
        if isinstance(self.answer, Exception):
            raise self.answer
        return datasets.DatasetDict(self.answer)


@pytest.mark.parametrize("config", [None, "plain_text"])
def test_the_hub_is_asked_for_a_name_and_a_configuration(
    config: str | None, monkeypatch: pytest.MonkeyPatch, mine: Load, tmp_path: Path
) -> None:
    shuffled = TRAIN.select(np.arange(60)[::-1])  # which the library keeps as indices of the same table
    hub = Hub(monkeypatch, {"train": shuffled, "validation": split([1, 0, 2], start=90)})
    task = mine(data="someone/moods" + (f":{config}" if config else ""))
    assert hub.asked == [("someone/moods", config, {})]  # nothing else: no remote code
    assert task.spec.classes == ("sad", "glad", "meh")
    assert task.dev["validation"].labels.tolist() == [1, 0, 2]
    local = mine(data=saved(tmp_path / "d", {"train": shuffled, "validation": TRAIN}))
    assert local.train.fingerprint == task.train.fingerprint
    assert local.train.labels.tolist() == task.train.labels.tolist() == [(59 - i) % 3 for i in task.train.ids.tolist()]


def test_what_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, mine: Load) -> None:
    Hub(monkeypatch, ValueError("Config name is missing.\nPlease pick one among: ['en', 'de']"))
    with pytest.raises(InputError, match=r"someone/moods .*among: \['en', 'de'\].*save_to_disk") as caught:
        mine(data="someone/moods")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["moods", "a/b/c", "../up/er", "/no/where", "a b/c", "a.csv", "me/a.csv", ""])
def test_what_is_no_name_is_not_asked_for(name: str, monkeypatch: pytest.MonkeyPatch, mine: Load) -> None:
    hub = Hub(monkeypatch, {"train": TRAIN})
    with pytest.raises(InputError, match=r"there is no file or folder|is no file, nor a folder"):
        mine(data=name)
    assert not hub.asked


def test_a_folder_with_a_script_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: Load
) -> None:
    hub = Hub(monkeypatch, {"train": TRAIN})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "moods").mkdir(parents=True)
    (tmp_path / "me" / "moods" / "moods.py").write_text("open('ran', 'w')\n")
    for data in ("me/moods", str(tmp_path / "me" / "moods")):
        with pytest.raises(InputError, match="is no file, nor a folder that save_to_disk wrote"):
            mine(data=data)
    assert not hub.asked
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dataset_dict.json", '{"splits": ["train", "../other"]}', r'splits\[1\] is "\.\./other"'),
        ("dataset_dict.json", '{"splits": 3}', "splits is 3"),
        ("dataset_dict.json", "[1]", "is .*: it should be an object"),
        ("dataset_dict.json", '{"splits": ["train", "test"]}', r"test/state\.json cannot be read"),
        (
            "train/state.json",
            '{"_data_files": [{"filename": "/etc/passwd"}]}',
            r'filename is "/etc/passwd"',
        ),
        ("train/state.json", '{"_data_files": [{"filename": "none.arrow"}]}', "cannot be read"),
        ("train/state.json", '{"_data_files": []}', "the train split of .* has no rows"),
        ("train/state.json", '{"_data_files": [], "_indices_data_files": [1]}', "an old release wrote it"),
        ("train/state.json", "{}", "lacks _data_files"),
        ("train/dataset_info.json", '{"features": {"mood": {"_type": "ClassLabel"}}}', "cannot be read"),
        ("train/dataset_info.json", '{"features": {"mood": {"_type": "ClassLabel", "names": []}}}', "not told apart"),
        ("train/dataset_info.json", '{"features": {"mood": {"_type": "ClassLabel", "names": [3]}}}', "have no names"),
        (
            "train/dataset_info.json",
            '{"features": {"mood": {"_type": "ClassLabel", "names": ["a", "b"]}}}',
            "the label 2 in 'mood', which has 2 classes",
        ),
        ("train/data-00000-of-00001.arrow", "not arrow", "cannot be read"),
    ],
)
def test_a_folder_that_is_damaged_or_leads_elsewhere(
    file: str, content: str, message: str, tmp_path: Path, mine: Load
) -> None:
    data = saved(tmp_path / "d", {"train": TRAIN})
    (tmp_path / "d" / file).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        mine(data=data)
    assert "\n" not in str(caught.value)


def test_texts_alone_are_those_of_a_split_that_has_rows(tmp_path: Path) -> None:
    data = saved(tmp_path / "d", {"train": TRAIN, "test": TRAIN.select([])})
    assert own_texts("mine", data, ["words"], "train").texts == (list(TRAIN["words"]),)
    with pytest.raises(InputError, match=r"^the test split of .* has no rows$"):
        own_texts("mine", data, ["words"], None)
