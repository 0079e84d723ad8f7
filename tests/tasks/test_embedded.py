from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from ackd.errors import InputError
from ackd.tasks import EMBEDDED, embedded_tokenizer, load
from ackd.tasks.embedded import LABEL_NOISE, generate

SENTENCES = ("polarity", "tally")  # what is generated; the images have tests of their own


@pytest.mark.parametrize("name", SENTENCES)
def test_the_same_rows_every_time_and_quickly(name: str) -> None:
    first = generate(name, "train")
    generate.cache_clear()
    start = time.process_time()
    again = generate(name, "train")
    assert time.process_time() - start < 1
    assert again is not first
    assert again.texts == first.texts
    assert again.labels.tolist() == first.labels.tolist()
    assert len(first) == 8000


@pytest.mark.parametrize("name", SENTENCES)
def test_validation_is_balanced_and_nearly_nothing_repeats(name: str) -> None:
    train, dev = generate(name, "train"), generate(name, "validation")
    assert np.bincount(dev.labels).tolist() == [500, 500]
    assert abs(np.bincount(train.labels)[0] - 4000) < 200
    seen = set(zip(*train.texts, strict=True))
    assert len(seen) >= 0.99 * len(train)
    assert len(seen & set(zip(*dev.texts, strict=True))) <= 0.01 * len(dev)


GOOD = set("good charming clever funny lovely superb brilliant perfect liked like enjoyed enjoy praised".split())
GOOD |= {"praise", "loved", "love"}
BAD = set("bad boring dull ugly tedious awful terrible dreadful disliked dislike regretted regret avoided".split())
BAD |= {"avoid", "hated", "hate"}


def verdict(clause: str) -> int:
    """What a clause says, from its words alone: nothing of the generator is used."""
    words = clause.split()
    (sign,) = [1 if word in GOOD else -1 for word in words if word in GOOD | BAD]
    return -sign if {"not", "never", "nobody"} & set(words) else sign


def polarity_of(text: str) -> int:
    text = text.removesuffix(" .")
    for word in (" yet ", " but "):
        if word in text:
            return verdict(text.split(word)[1])
    parts = text.split(" , ")
    return verdict(next(part for part in parts if "although" not in part and (GOOD | BAD) & set(part.split())))


def tally_of(text: str) -> int:
    first, rest = text.removesuffix(" .").split(" , ")
    return sum(verdict(clause) for clause in (first, *rest.split(" and ")))


@pytest.mark.parametrize(("name", "judge"), [("polarity", polarity_of), ("tally", tally_of)])
def test_labels_are_what_the_sentences_say_but_for_the_noise(name: str, judge: Callable[[str], int]) -> None:
    dev, train = generate(name, "validation"), generate(name, "train")
    assert [int(judge(text) > 0) for text in dev.texts[0]] == dev.labels.tolist()
    clean = np.array([int(judge(text) > 0) for text in train.texts[0]])
    assert (clean != train.labels).mean() == pytest.approx(LABEL_NOISE, abs=0.015)


def test_no_word_is_unknown() -> None:
    for name in EMBEDDED:
        tokenizer = embedded_tokenizer(name)
        for split in ("train", "validation"):
            words = {word for column in generate(name, split).texts for text in column for word in text.split()}
            assert words <= set(tokenizer.get_vocab())


def test_tasks_of_sentences_share_one_tokenizer_that_reloads(tmp_path: Path) -> None:
    first, second = embedded_tokenizer("polarity"), embedded_tokenizer("tally")
    assert first.get_vocab() == second.get_vocab()
    first.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    pair = "we liked the film .", "nobody loved the hotel tour ."
    encoded = again(*pair)
    assert dict(encoded) == dict(first(*pair))
    tokens = again.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == ["[CLS]", *pair[0].split(), "[SEP]", *pair[1].split(), "[SEP]"]
    assert encoded["token_type_ids"] == [0] * 7 + [1] * 7
    assert again.pad_token_id == first.pad_token_id == again.convert_tokens_to_ids("[PAD]")


def test_splits_of_a_generated_task() -> None:
    tokenizer = embedded_tokenizer("polarity")
    task = load("polarity", tokenizer, max_examples=1000, seed=3)
    assert (len(task.train), len(task.reward)) == (1000, 256)
    assert len(task.dev["validation"]) == 1000
    texts = generate("polarity", "train").texts[0]
    batch = task.train.batch([0, 7])
    for tokens, i in zip(batch.inputs["input_ids"], batch.ids.tolist(), strict=True):
        assert tokenizer.decode(tokens, skip_special_tokens=True).split() == texts[i].split()


def test_an_unknown_generated_task_is_named() -> None:
    with pytest.raises(InputError, match=r"'polarty'.*polarity"):
        embedded_tokenizer("polarty")
