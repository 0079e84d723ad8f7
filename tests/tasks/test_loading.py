from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import EMBEDDED, GLUE, embedded_tokenizer, load, spec_of

LOCAL = ("cola", "mrpc", "rte", "sst2", "stsb")


@pytest.fixture(scope="module")
def real(shared: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(shared / "models" / "minilm-l6-sst2")
    return tokenizer


def test_the_nine_tasks() -> None:
    assert sorted(GLUE) == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
    assert {name: spec.metrics for name, spec in GLUE.items() if spec.metrics != ("accuracy",)} == {
        "cola": ("matthews",),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
    }
    assert GLUE["mnli"].classes == ("entailment", "neutral", "contradiction")
    assert GLUE["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert GLUE["rte"].classes[0] == "entailment"
    assert GLUE["wnli"].classes[0] == "not_entailment"
    assert GLUE["stsb"].regression
    assert (GLUE["stsb"].num_labels, GLUE["mnli"].num_labels) == (1, 3)


@pytest.mark.parametrize("name", LOCAL)
def test_a_real_task(name: str, glue: Path, real: PreTrainedTokenizerBase) -> None:
    task = load(name, real, data=glue, max_examples=80, max_length=48)
    source = datasets.Dataset.from_parquet(str(glue / name / "train.parquet"), keep_in_memory=True)
    assert task.spec is GLUE[name]
    assert (len(task.train), len(task.reward)) == (80, 256)
    assert list(task.dev) == ["validation"]
    assert task.train.lengths.max() <= 48
    assert task.train.labels.dtype == (np.float32 if name == "stsb" else np.int64)
    batch = task.train.batch([3, 0])
    for i, tokens, mask, label in zip(
        batch.ids.tolist(), batch.inputs["input_ids"], batch.mask, batch.labels, strict=True
    ):
        row = source[i]
        expected = real(*(row[column] for column in GLUE[name].text_columns), truncation=True, max_length=48)
        assert tokens[mask.bool()].tolist() == expected["input_ids"]
        assert label.item() == pytest.approx(row["label"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(most=st.integers(8, 700), seed=st.integers(0, 9))
def test_train_and_reward_are_disjoint_and_complete(most: int, seed: int) -> None:
    tokenizer = embedded_tokenizer("tally")
    task, again = (load("tally", tokenizer, max_examples=most, seed=seed) for _ in range(2))
    train, reward = set(task.train.ids.tolist()), set(task.reward.ids.tolist())
    assert not train & reward
    assert (len(train), len(reward)) == (len(task.train), len(task.reward)) == (most, 256)
    assert again.train.ids.tolist() == task.train.ids.tolist()
    assert again.reward.ids.tolist() == task.reward.ids.tolist()


def test_the_whole_pool_is_train_and_reward_and_the_seed_cuts_it() -> None:
    tokenizer = embedded_tokenizer("polarity")
    one, two = (load("polarity", tokenizer, seed=seed) for seed in (0, 1))
    for task in (one, two):
        assert len(task.reward) == 256
        assert len({*task.train.ids, *task.reward.ids}) == len(task.train) + 256 >= 0.999 * 8000  # few share text
    assert set(one.reward.ids.tolist()) != set(two.reward.ids.tolist())
    assert abs(one.reward.labels.mean() - one.train.labels.mean()) < 0.01
    assert one.dev["validation"].ids.tolist() == list(range(1000))


def test_spec_of_needs_no_data() -> None:
    assert spec_of("mnli") is GLUE["mnli"]
    assert spec_of("polarity") is EMBEDDED["polarity"]


@pytest.mark.parametrize("data", [None, "."])
def test_an_unknown_task_is_named(data: str | None, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=r"'sst'.*'sst2'.*polarity"):
        load("sst", tokenizer, data=data)


def test_without_a_network_both_ways_out_are_named(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(InputError, match=r"wnli.*network.*--data") as caught:
        load("wnli", tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [3, 0, 129])
def test_a_length_the_model_cannot_take(length: int, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=rf"\b{length}\b.*128"):
        load("polarity", tokenizer, max_length=length)


@pytest.mark.parametrize("most", [-1, 0, 3])
def test_too_few_examples(most: int, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=rf"{most}\b"):
        load("polarity", tokenizer, max_examples=most)


def test_columns_need_a_file(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file"):
        load("sst2", tokenizer, data=tmp_path, text_columns=["sentence"], label_column="label")
    with pytest.raises(InputError, match="--dev-data"):
        load("polarity", tokenizer, dev_data=tmp_path / "dev.csv")
    with pytest.raises(InputError, match="polarity"):
        load("polarity", tokenizer, data=tmp_path)


def folder(place: Path, *, splits: dict[str, list[int]], column: str = "sentence", name: str = "sst2") -> Path:
    (place / name).mkdir(parents=True)
    for file, labels in splits.items():
        rows = {column: [f"we liked it {i}" for i in range(len(labels))], "label": labels}
        datasets.Dataset.from_dict(rows).to_parquet(str(place / name / f"{file}.parquet"))
    return place


GOOD = [0, 1] * 20


def test_shards_are_one_split_in_order(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    parts = {"train-00001-of-00002": GOOD[:24], "train-00000-of-00002": GOOD, "validation-00000-of-00001": GOOD}
    task = load("sst2", tokenizer, data=folder(tmp_path, splits=parts))
    ids, texts = [*task.train.ids, *task.reward.ids], [*range(40), *range(24)]  # the second file says the same again
    assert {texts[i] for i in ids} == set(range(40))
    assert all(task.train.labels[task.train.ids == i] == texts[i] % 2 for i in task.train.ids)


def test_missing_folder_task_split_and_column(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="nowhere"):
        load("sst2", tokenizer, data=tmp_path / "nowhere")
    data = folder(tmp_path / "a", splits={"train": GOOD})
    with pytest.raises(InputError, match=r"no cola .*sst2"):
        load("cola", tokenizer, data=data)
    with pytest.raises(InputError, match=r"validation.*train\.parquet"):
        load("sst2", tokenizer, data=data)
    data = folder(tmp_path / "b", splits={"train": GOOD, "validation": GOOD}, column="text")
    with pytest.raises(InputError, match=r"'sentence'.*text, label"):
        load("sst2", tokenizer, data=data)


@pytest.mark.parametrize("hidden", ["train", "validation"])
def test_hidden_labels_name_their_split(hidden: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    splits = {"train": GOOD, "validation": GOOD} | {hidden: [-1] * 40}
    with pytest.raises(InputError, match=rf"{hidden}.*sst2.*-1"):
        load("sst2", tokenizer, data=folder(tmp_path, splits=splits))


def test_the_test_split_is_never_read(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = folder(tmp_path, splits={"train": GOOD, "validation": GOOD})
    (data / "sst2" / "test.parquet").write_bytes(b"not to be opened")
    assert len(load("sst2", tokenizer, data=data).train)
