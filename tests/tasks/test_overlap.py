"""What is held out shares no text with what is left, by comparing every text with every other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from ackd.errors import InputError
from ackd.tasks import Task, embedded_tokenizer, load
from ackd.tasks.cut import Pool
from ackd.tasks.embedded import generate
from ackd.tasks.overlap import Overlap
from ackd.tasks.rows import Rows, glue_rows
from ackd.tasks.seen import fingerprint

Write = Callable[[str, Sequence[dict[str, Any]]], Path]


def words(text: str) -> tuple[str, ...]:
    return tuple(text.lower().split())


def inside(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one lies in the other, word after word."""
    return any(other[i : i + len(one)] == one for i in range(len(other) - len(one) + 1))


def share(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether rows share text, given their texts."""
    if any(words(a) == words(b) for a, b in product(one, other)):
        return True
    if len(one) > 1:
        return False
    a, b = words(one[0]), words(other[0])
    return min(len(a), len(b)) >= 4 and (inside(a, b) or inside(b, a))


LINES = st.lists(st.sampled_from("a b c A".split()), max_size=9).map("  ".join)


@settings(deadline=None)
@given(
    rows=st.integers(1, 2).flatmap(lambda n: st.lists(st.tuples(*[LINES] * n), min_size=1, max_size=30)), data=st.data()
)
def test_touching_rows_are_those_that_share_text(rows: list[tuple[str, ...]], data: st.DataObject) -> None:
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    overlap = Overlap([*zip(*rows, strict=True)])
    expected = [any(share(row, rows[k]) for k in np.flatnonzero(chosen)) for row in rows]
    assert overlap.touching(chosen).tolist() == expected


@given(rows=st.lists(st.tuples(LINES, LINES), min_size=1, max_size=15))
def test_groups_are_closed_and_no_larger_than_that_takes(rows: list[tuple[str, str]]) -> None:
    groups = Overlap([*zip(*rows, strict=True)]).groups()
    reached = np.eye(len(rows), dtype=int)
    direct = np.array([[share(a, b) for b in rows] for a in rows], dtype=int)
    for _ in rows:
        reached = np.minimum(reached @ direct, 1)
    assert (groups[:, None] == groups).astype(int).tolist() == reached.tolist()


def test_a_heading_joins_no_rows_and_a_passage_does() -> None:
    count = 6000
    questions = [f"question number {i} of many" for i in range(count)]
    first = np.arange(count) == 0
    assert Overlap([questions, ["the food"] * 60 + questions[60:]]).touching(first).sum() == 60  # one of a hundred
    assert Overlap([questions, ["the food"] * 61 + questions[61:]]).touching(first).sum() == 1
    assert Overlap([questions, ["the food was good"] * 61 + questions[61:]]).touching(first).sum() == 61
    same = [questions[0], questions[0], *questions[2:]]
    assert Overlap([same, ["the food"] * count]).touching(first).sum() == 2


POOLS = st.lists(st.tuples(LINES, st.integers(0, 1)), min_size=8, max_size=60)


def loaded(rows: Sequence[tuple[str, int]], write: Write, **changes: Any) -> Task:
    path = write("rows.jsonl", [{"text": text, "label": label} for text, label in [*rows, ("z", 0), ("y", 1)]])
    columns: dict[str, Any] = {"text_columns": ["text"], "label_column": "label", "dev_data": path}
    return load("own", embedded_tokenizer("polarity"), data=path, **columns, **changes)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=POOLS, count=st.integers(1, 40), seed=st.integers(0, 9))
def test_nothing_of_the_reward_split_is_in_train(
    write: Write, rows: list[tuple[str, int]], count: int, seed: int
) -> None:
    try:
        task = loaded(rows, write, reward_examples=count, seed=seed)
    except InputError:  # the test below says when
        return
    texts = [*(text for text, _ in rows), "z", "y"]
    assert len(task.reward) <= min(count, len(texts) // 2)
    for i, j in product(task.reward.ids.tolist(), task.train.ids.tolist()):
        assert i != j
        assert not share([texts[i]], [texts[j]])
    assert len(task.train) >= len(texts) / 4


def test_nothing_can_be_held_out_where_all_rows_say_the_same(write: Write) -> None:
    with pytest.raises(InputError, match=r"1 of 10 .* share text with each other; measure rewards on a part of dev"):
        loaded([("z", 0), ("z", 1)] * 4, write, reward_examples=5)


@pytest.mark.parametrize("name", ["polarity", "tally"])
def test_nothing_of_it_is_in_train_of_generated_tasks(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [words(text) for text in generate(name, "train").texts[0]]
    task = load(name, tokenizer)
    parts = {
        row[i:j]
        for k in task.train.ids
        for row in [texts[k]]
        for i in range(len(row))
        for j in range(i + 4, len(row) + 1)
    }
    train = {texts[k] for k in task.train.ids}
    for k in task.reward.ids:
        row = texts[k]
        assert row not in parts
        assert not train & {row[i:j] for i in range(len(row)) for j in range(i + 4, len(row) + 1)}


def test_few_passages_are_held_out_as_wholes(write: Write) -> None:
    """Every passage is in fifty rows: rows drawn one by one would leave nothing to learn from."""
    rows = [{"p": f"the passage with number {i % 12}", "q": f"question {i}", "label": i // 12 % 2} for i in range(600)]
    path = write("rows.jsonl", rows)
    columns: dict[str, Any] = {"text_columns": ["p", "q"], "label_column": "label", "dev_data": path}
    task = load("own", embedded_tokenizer("polarity"), data=path, reward_examples=100, **columns)
    held, kept = ({i % 12 for i in split.ids.tolist()} for split in (task.reward, task.train))
    assert not held & kept
    assert len(task.reward) == 100
    assert len(task.train) >= 150


def test_a_phrase_costs_little_of_a_large_task() -> None:
    """400,000 pairs, and 60,000 texts that begin alike: neither takes long."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{i}" for i in range(5000)])
    lines = [" ".join(vocabulary[row]) for row in rng.integers(0, 5000, (60_000, 8))]
    start = time.process_time()
    some = np.arange(400_000) < 256
    columns = [[lines[i] for i in rng.integers(0, 60_000, 400_000)] for _ in range(2)]
    assert Overlap(columns).touching(some).sum() > 256
    fingerprint(Rows(tuple(columns), np.zeros(400_000, np.int64), np.arange(400_000)))
    alike = Overlap([[f"is what follows good or bad ? {line}" for line in lines]])
    assert alike.touching(some[:60_000]).sum() == 256 + (
        len(lines) - len(set(lines)) and sum(line in set(lines[:256]) for line in lines[256:])
    )
    assert time.process_time() - start < 20


@pytest.mark.slow
def test_real_phrases_are_apart(glue: Path) -> None:
    """SST-2, whose training rows are phrases of one another: by sets of all phrases, which is another way to look."""
    from ackd.tasks import GLUE

    rows = glue_rows(GLUE["sst2"], glue, "train")
    start = time.process_time()
    pool = Pool(rows, "sst2")
    held = pool.hold_out("reward", 256, np.random.SeedSequence(0), "")
    assert time.process_time() - start < 10
    assert len(held) == 256
    assert len(pool.left) > 0.95 * len(rows)
    texts = [words(text) for text in rows.texts[0]]
    reward, train = ([texts[i] for i in indices] for indices in (held.tolist(), pool.left.tolist()))
    parts = {row[i:j] for row in reward for i in range(len(row)) for j in range(i + 4, len(row) + 1)}
    assert not parts & set(train)
    assert not set(reward) & set(train)
    longest = max(map(len, train))
    lengths = sorted({len(row) for row in reward if len(row) >= 4})
    assert lengths[-1] <= longest
    wanted = {row for row in reward if len(row) >= 4}
    assert not any(row[i : i + n] in wanted for row in train for n in lengths for i in range(len(row) - n + 1))
