"""Sentences to learn from, pairs to report on, and what is measured on them."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from scipy.stats import spearmanr

from ackd import tasks
from ackd.errors import InputError
from ackd.tasks import sts
from tests import encoders
from tests.models import small

TOKENIZER = small.tokenizer(pad_token="[PAD]")


def load(**options: object) -> tasks.Task:
    return tasks.load("embeddings", TOKENIZER, **{"reward_examples": 20, "max_length": 32, **options})  # type: ignore[arg-type]


def texts(split: tasks.Split) -> list[str]:
    every = np.split(split.inputs["input_ids"], split.offsets[1:-1])
    return [TOKENIZER.decode(one) for one in every]


def test_a_line_is_a_sentence_and_dev_has_both_of_each_pair(tmp_path: Path) -> None:
    task = load(**encoders.write(tmp_path))
    assert sorted([*texts(task.train), *texts(task.reward)]) == sorted(encoders.sentences(120))
    assert len(task.reward) == 20
    pairs = encoders.pairs(60)
    dev = task.dev["validation"]
    assert texts(dev) == [text for first, second, _ in pairs for text in (first, second)]
    assert dev.labels == pytest.approx([score for *_, score in pairs for _ in range(2)])
    assert len(set(dev.ids.tolist())) == 120
    assert task.spec.metrics == ("spearman", "recall@1", "mrr")
    assert task.max_length == 32


def test_two_columns_are_taken_together_and_what_is_double_or_empty_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = encoders.write(tmp_path)
    (tmp_path / "two.csv").write_text("a,b,number\nw4 w5,w6 w7,1\n  ,w4 w5,2\nw8 w9,w6 w4,3\nw5 w8,w9 w4,4\n")
    with caplog.at_level(logging.WARNING, "ackd"):
        task = load(**{**given, "data": str(tmp_path / "two.csv")}, reward_examples=0)
    assert texts(task.train) == ["w4 w5", "w6 w7", "w8 w9", "w6 w4", "w5 w8", "w9 w4"]
    assert "has 1 empty sentences" in caplog.text


def test_data_sets_bring_their_pairs(tmp_path: Path) -> None:
    columns = dict(zip(encoders.PAIR, zip(*encoders.pairs(60), strict=True), strict=True))
    both = DatasetDict(train=Dataset.from_dict({"text": encoders.sentences(120)}), dev=Dataset.from_dict(columns))
    assert list(load(data=both).dev) == ["dev"]
    both.save_to_disk(tmp_path / "set")
    assert texts(load(data=str(tmp_path / "set")).dev["dev"]) == texts(load(data=both).dev["dev"])


def test_rewards_may_come_from_a_part_of_the_pairs(tmp_path: Path) -> None:
    task = load(**encoders.write(tmp_path, report=150), reward_from="dev:0.4")
    assert len(task.reward) == 2 * 60
    assert len(task.dev["validation"]) == 2 * 90
    assert not set(texts(task.reward)) & set(texts(task.dev["validation"]))


def test_sts_b_is_what_is_taken_of_glue(shared: Path) -> None:
    task = load(data=str(shared / "glue"), max_examples=50)
    assert len(task.dev["validation"]) == 3000
    assert len(task.train) == 50


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data", "", "has no rows"),
        ("data", "\n \n\n", "has no rows"),
        ("dev_data", "a,b\nw4,w5\n", "two text columns and one of scores"),
        ("dev_data", "a,b,score\nw4,w5,x\nw6,w7,y\n", "has the label"),
        ("dev_data", "a,b,score\nw4,w5,1\n w6, ,2\n", "empty sentence in row 2"),
        ("dev_data", "a,b,score\nw4,w5,1\nw6,w7,1\n", "not all equal"),
        ("dev_data", "a,b,score\nw4,w5,-1\nw6,w7,1\n", "must be at least 0"),
    ],
)
def test_files_that_cannot_be_used_are_told(name: str, content: str, said: str, tmp_path: Path) -> None:
    given = encoders.write(tmp_path)
    Path(given[name]).write_text(content)
    with pytest.raises(InputError, match=said):
        load(**given)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    given = encoders.write(tmp_path)
    with pytest.raises(InputError, match="has no pairs to report on"):
        load(data=given["data"])
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(InputError, match="name the text of"):
        load(**{**given, "data": str(tmp_path / "numbers.csv")})
    with pytest.raises(InputError, match="--wrong-labels"):
        load(**given, wrong_labels=0.1)
    with pytest.raises(InputError, match="compute_metrics needs labels"):
        load(**given).judged_by(lambda prediction: {"a": 1.0})


def test_pairs_are_measured_as_by_hand() -> None:
    rng = np.random.default_rng(0)
    scores = np.array([5.0, 0.5, 4.0, 3.9, 1.0, 4.2])
    vectors = rng.normal(size=(12, 3))
    vectors[9] = vectors[8]  # a pair that is surely found

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b)))

    found = sts.pair_metrics(vectors, np.repeat(scores, 2))
    first, second = vectors[::2], vectors[1::2]
    own = [cosine(a, b) for a, b in zip(first, second, strict=True)]
    assert found["spearman"] == pytest.approx(spearmanr(own, scores).statistic)
    ranks = [1 + sum(cosine(first[i], b) > own[i] for b in second) for i in (0, 2, 5)]  # scores of at least 4
    assert found["recall@1"] == pytest.approx(ranks.count(1) / 3)
    assert found["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / 3)


def test_embeddings_agree_with_their_own_rotation_and_hardly_with_others() -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(size=(30, 5))
    turned = ours @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert sts.agreement(ours, turned)["spearman"] == pytest.approx(1.0)
    assert abs(sts.agreement(ours, rng.normal(size=(30, 8)))["spearman"]) < 0.2
    many = rng.normal(size=(2 * sts.COMPARED, 2))
    assert len(sts.similarities(many)) == sts.COMPARED * (sts.COMPARED - 1) / 2
