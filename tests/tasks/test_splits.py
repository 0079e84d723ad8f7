from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from ackd.tasks import Split, tokenise
from ackd.types import NO_TOKEN

ROWS = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9), min_size=1, max_size=20)


def ragged(rows: list[list[int]]) -> Split:
    """Examples with known tokens: the ids are not the places, and padding is no token."""
    flat = np.array([token for row in rows for token in row], np.int64)
    offsets = np.array([sum(len(row) for row in rows[:i]) for i in range(len(rows) + 1)], np.int64)
    labels = np.arange(len(rows), dtype=np.int64) % 3
    ids = 100 + np.arange(len(rows), dtype=np.int64)
    return Split({"input_ids": flat, "token_type_ids": flat % 2}, offsets, labels, ids, {"input_ids": 99})


@given(rows=ROWS, data=st.data())
def test_padding_never_changes_tokens(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    batch = ragged(rows).batch(chosen)
    longest = max(len(rows[i]) for i in chosen)
    assert batch.shape == (len(chosen), longest)
    for place, i in enumerate(chosen):
        padding = longest - len(rows[i])
        assert batch.inputs["input_ids"][place].tolist() == rows[i] + [99] * padding
        assert batch.inputs["token_type_ids"][place].tolist() == [token % 2 for token in rows[i]] + [0] * padding
        assert batch.mask[place].tolist() == [1] * len(rows[i]) + [0] * padding
    assert batch.ids.tolist() == [100 + i for i in chosen]
    assert batch.labels.tolist() == [i % 3 for i in chosen]


@given(rows=ROWS, data=st.data())
def test_a_selection_answers_as_the_whole_does(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    whole, part = ragged(rows), ragged(rows).select(chosen)
    assert len(part) == len(chosen)
    assert part.lengths.tolist() == [len(rows[i]) for i in chosen]
    expected, found = whole.batch(chosen), part.batch(range(len(chosen)))
    assert found.ids.equal(expected.ids)
    assert found.labels.equal(expected.labels)
    assert all(found.inputs[name].equal(value) for name, value in expected.inputs.items())


@given(rows=ROWS, size=st.integers(1, 7))
def test_by_length_covers_each_example_once_and_pads_little(rows: list[list[int]], size: int) -> None:
    split = ragged(rows)
    groups = [group.tolist() for group in split.by_length(size)]
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    assert all(len(group) == size for group in groups[:-1])
    assert len(groups[-1]) <= size
    lengths = [len(rows[i]) for group in groups for i in group]
    assert lengths in (sorted(lengths), sorted(lengths, reverse=True))
    assert groups == [group.tolist() for group in split.by_length(size)]


def test_a_mask_is_made_of_lengths_and_not_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [["the film is good", "good"], ["not the film", "bad"]]
    split = tokenise(texts, np.array([0, 1]), np.arange(2), tokenizer, 12)
    assert set(split.inputs) == {"input_ids", "token_type_ids"}
    alone = tokenizer(*texts, padding=True)
    batch = split.batch([0, 1])
    assert {name: value.tolist() for name, value in batch.inputs.items()} == dict(alone)


def test_selecting_nothing_gives_an_empty_split() -> None:
    assert len(ragged([[1, 2], [3]]).select([])) == 0


def test_a_place_beyond_the_split_is_refused() -> None:
    with pytest.raises(IndexError):
        ragged([[1, 2], [3]]).batch([2])


def test_nothing_is_predicted_behind_the_end_of_a_text() -> None:
    flat, offsets = np.array([4, 7, 9, 5, 6, 9, 9, 1, 2]), np.array([0, 6, 9])
    whole = Split({"input_ids": flat}, offsets, np.zeros(2, np.int64), np.arange(2), {}, language=True, end=9)
    for split in (whole, whole.select([0, 1])):
        labels = split.batch([0, 1]).labels
        assert labels.tolist() == [[7, 9, NO_TOKEN, 6, 9], [NO_TOKEN, 2, NO_TOKEN, NO_TOKEN, NO_TOKEN]]
        assert split.predicted.tolist() == [4, 1]
    every = Split({"input_ids": flat}, offsets, np.zeros(2, np.int64), np.arange(2), {}, language=True)
    assert every.predicted.tolist() == [5, 2]
