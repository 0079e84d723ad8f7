"""What a model says it was trained on, and that no reward split is cut from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import NOTHING, UNKNOWN, Seen, Task, embedded_tokenizer, load, read_seen, together, write_seen
from ackd.tasks.embedded import generate
from ackd.tasks.overlap import Overlap
from ackd.tasks.seen import Part, fingerprint

Write = Callable[[str, Sequence[dict[str, Any]]], Path]


def model(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


MASKS = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda row: np.array(row, np.bool_))


@given(masks=st.dictionaries(st.sampled_from("abc"), MASKS, max_size=3), complete=st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, masks: dict[str, Any], complete: bool
) -> None:
    folder, seen = model(tmp_path_factory.mktemp("model")), Seen(complete=complete)
    for name, mask in masks.items():
        seen = seen.plus(name * 64, mask)
    write_seen(folder, seen)
    assert read_seen(folder) == seen
    for name, mask in masks.items():
        assert seen.rows(name * 64, len(mask)).tolist() == mask.tolist()
    assert not seen.rows("d" * 64, 8).any()


@given(one=st.lists(st.booleans(), min_size=20, max_size=20), other=st.lists(st.booleans(), min_size=20, max_size=20))
def test_together_they_have_seen_what_each_has(one: list[bool], other: list[bool]) -> None:
    both = together([NOTHING.plus("a" * 64, np.array(one)), UNKNOWN.plus("a" * 64, np.array(other))])
    assert both.rows("a" * 64, 20).tolist() == [a or b for a, b in zip(one, other, strict=True)]
    assert not both.complete


def test_many_rows_stay_small(tmp_path: Path) -> None:
    seen = NOTHING.plus("a" * 64, np.random.default_rng(0).random(400_000) < 0.5)
    write_seen(model(tmp_path), seen)
    assert (tmp_path / "seen.json").stat().st_size < 70_000
    assert read_seen(tmp_path) == seen


GOOD: dict[str, Any] = {"format": 1, "complete": True, "seen": [{"data": "a" * 64, "count": 10, "rows": "/4A="}]}


FIELDS: list[dict[str, Any]] = [
    {"format": 2}, {"format": True}, {"complete": 1}, {"seen": {}}, {"seen": [1]}, {"seen": GOOD["seen"] * 2},
    {"seen": GOOD["seen"] * 300}, {"more": 1},
]  # fmt: skip
PARTS: list[dict[str, Any]] = [
    {"data": "a"}, {"data": "A" * 64}, {"data": 1}, {"count": 0}, {"count": 8}, {"count": 17}, {"count": 1e400},
    {"count": "10"}, {"count": 10**12}, {"rows": "/4"}, {"rows": "/8E="}, {"rows": "\u2603"}, {"rows": None},
    {"more": 1},
]  # fmt: skip
BAD = [{**GOOD, **change} for change in FIELDS]
BAD += [{**GOOD, "seen": [{**GOOD["seen"][0], **change}]} for change in PARTS]


@pytest.mark.parametrize("content", ["", "[]", "null", "{" * 10_000, '{"format": 1}', *map(json.dumps, BAD)])
def test_a_damaged_file_is_refused_with_one_sentence(content: str, tmp_path: Path) -> None:
    (model(tmp_path) / "seen.json").write_text(content)
    with pytest.raises(
        InputError, match=r"seen\.json does not say what the model has seen \(.*\): it is damaged"
    ) as no:
        read_seen(tmp_path)
    assert "\n" not in str(no.value)
    (tmp_path / "seen.json").write_text(json.dumps(GOOD))
    found = read_seen(tmp_path)
    assert found is not None
    assert np.flatnonzero(found.rows("a" * 64, 10)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_model_that_says_nothing(tmp_path: Path) -> None:
    assert read_seen(model(tmp_path)) is None
    assert read_seen("someone/of-the-hub") is None


def test_the_fingerprint_is_of_texts_and_labels_in_their_order() -> None:
    rows = generate("polarity", "train")
    (column,) = rows.texts
    order = np.arange(len(rows))[::-1]
    others = [
        replace(rows, labels=1 - rows.labels),
        replace(rows, texts=([*column[:-1], "x"],)),
        replace(rows, texts=([column[0] + column[1][:1], column[1][1:], *column[2:]],)),
        rows.select(order),
    ]
    prints = [fingerprint(one) for one in (rows, *others)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(rows.select(order).select(order)) == prints[0]
    halves = [replace(rows, labels=rows.labels * share) for share in (0.25, 0.75)]
    assert fingerprint(halves[0]) != fingerprint(halves[1])


def polarity(**changes: Any) -> Task:
    return load("polarity", embedded_tokenizer("polarity"), **changes)


def indices(rows: np.ndarray[Any, Any], count: int = 8000) -> np.ndarray[Any, Any]:
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


@pytest.fixture(scope="module")
def overlap() -> Overlap:
    return Overlap(generate("polarity", "train").texts)


CUTS = st.fixed_dictionaries(
    {
        "max_examples": st.integers(8, 2000),
        "reward_examples": st.sampled_from([60, 256, 500]),
        "seed": st.integers(0, 3),
    }
)


@settings(max_examples=8, deadline=None)
@given(first=CUTS, second=CUTS, third=CUTS)
def test_no_teacher_has_seen_the_reward_split(
    overlap: Overlap, first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]
) -> None:
    """A teacher, a student of it, and that student as a teacher, each with sizes and a seed of its own."""
    seen = NOTHING
    for cut in (first, second, third):
        task = polarity(**cut, seen=seen)
        learned = indices(task.train.ids)
        assert len(task.reward) >= 50
        assert not overlap.touching(learned)[task.reward.ids].any()
        known = seen.rows(fingerprint(generate("polarity", "train")), 8000)
        assert not overlap.touching(known)[task.reward.ids].any()
        seen = task.seen
        assert seen.rows(fingerprint(generate("polarity", "train")), 8000).tolist() == (known | learned).tolist()


@pytest.mark.parametrize("most", [8, 3000, None])
def test_the_same_rows_are_held_out_whatever_is_learned_from(most: int | None) -> None:
    whole = polarity()
    some = polarity(max_examples=most)
    assert some.reward.ids.tolist() == whole.reward.ids.tolist()
    assert polarity(max_examples=most, seen=whole.seen).reward.ids.tolist() == whole.reward.ids.tolist()
    assert set(some.train.ids.tolist()) <= set(whole.train.ids.tolist())


def test_fewer_than_asked_are_told_of_and_too_few_refused(caplog: pytest.LogCaptureFixture) -> None:
    teacher = polarity(reward_examples=60)
    with caplog.at_level(logging.WARNING, "ackd"):
        task = polarity(seen=teacher.seen)
    assert 60 <= len(task.reward) < 256
    (record,) = caplog.records
    assert f"can have {len(task.reward)} of 8000" in record.getMessage()
    with pytest.raises(
        InputError, match=r"reward split of polarity can have .* by a model of this run.*dev:0\.5"
    ) as no:
        polarity(seen=polarity(reward_examples=20).seen)
    assert "\n" not in str(no.value)


def test_other_data_was_not_seen() -> None:
    tally = load("tally", embedded_tokenizer("tally"))
    task = polarity(seen=tally.seen)
    assert task.reward.ids.tolist() == polarity().reward.ids.tolist()
    assert len(task.seen.parts) == 2


def test_a_teacher_of_ones_own_file_has_seen_neither_dev_nor_rewards(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"words": f"we liked number {i}", "mood": "sad" if i % 3 else "glad"} for i in range(1000)]
    own: dict[str, Any] = {"text_columns": ["words"], "label_column": "mood", "data": write("a.jsonl", rows)}
    teacher = load("mine", tokenizer, **own, reward_examples=100)
    for seed in range(3):
        task = load("mine", tokenizer, **own, reward_examples=100, seed=seed, seen=teacher.seen)
        unseen = {*task.reward.ids.tolist(), *task.dev["validation"].ids.tolist()}
        assert len(unseen) == 300
        assert not unseen & set(teacher.train.ids.tolist())
        assert not unseen & set(task.train.ids.tolist())
    everything = Seen((Part(teacher.seen.parts[0].data, 1000, b"\xff" * 125),))
    with pytest.raises(InputError, match=r"dev split of mine can have 0 of 1000.*--dev-data"):
        load("mine", tokenizer, **own, seen=everything)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rewards_from_a_part_of_dev(share: float) -> None:
    whole, task = polarity(), polarity(reward_from=f"dev:{share}")
    reward, rest = task.reward, task.dev["validation"]
    assert sorted([*reward.ids, *rest.ids]) == whole.dev["validation"].ids.tolist()
    assert len(reward) == pytest.approx(1000 * share, abs=8)  # a few say the same
    assert task.dev_examples == len(rest)
    assert abs(reward.labels.mean() - 0.5) < 0.02
    assert len(task.train) == 8000
    again, other = (polarity(reward_from=f"dev:{share}", seed=seed) for seed in (0, 1))
    assert again.reward.ids.tolist() == reward.ids.tolist() != other.reward.ids.tolist()
    texts = generate("polarity", "validation").texts[0]
    assert not {texts[i] for i in reward.ids} & {texts[i] for i in rest.ids}


@pytest.mark.parametrize(
    "given", ["dev:0", "dev:1", "dev:-0.5", "dev:nan", "dev:inf", "dev:", "dev", "dev:x", "test:0.5", "", "Train"]
)
def test_a_part_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"--reward-from is .*: give train, or dev:PART"):
        polarity(reward_from=given)


@pytest.mark.parametrize("share", [0.04, 0.96])
def test_a_part_that_leaves_too_few_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=rf"--reward-from dev:{share} leaves .*at least 50 to each"):
        polarity(reward_from=f"dev:{share}")
