"""Images as sentences of grey levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from transformers import PreTrainedTokenizerBase

from ackd.tasks import EMBEDDED, embedded_tokenizer, images, load, tokenise
from ackd.tasks.digits import WORDS
from ackd.tasks.embedded import generate


@pytest.fixture(scope="module")
def digits_tokenizer() -> PreTrainedTokenizerBase:
    return embedded_tokenizer("digits")


def test_every_image_is_in_one_of_two_splits_with_its_label_and_pixels() -> None:
    pixels, labels = load_digits(return_X_y=True)
    train, dev = generate("digits", "train"), generate("digits", "validation")
    assert sorted([*train.ids, *dev.ids]) == list(range(1797))
    assert len(dev) == pytest.approx(0.2 * 1797, abs=5)
    for rows in (train, dev):
        assert rows.labels.tolist() == labels[rows.ids].tolist()
        read = [[int(word[1:]) for word in text.split()] for text in rows.texts[0]]
        np.testing.assert_array_equal(read, pixels[rows.ids])
        share = np.bincount(rows.labels) / len(rows)
        np.testing.assert_allclose(share, np.bincount(labels) / 1797, atol=0.003)


def test_the_same_split_every_time() -> None:
    first = generate("digits", "validation")
    generate.cache_clear()
    assert generate("digits", "validation").ids.tolist() == first.ids.tolist()


def test_images_come_back_from_tokens(digits_tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(digits_tokenizer) == 21
    task = load("digits", digits_tokenizer, max_examples=300)
    assert task.spec is EMBEDDED["digits"]
    assert set(task.train.lengths.tolist()) == {66}  # the pixels between two marks
    found = images(task.train, digits_tokenizer)
    assert found is not None
    pixels = load_digits().images[task.train.ids] / 16
    torch.testing.assert_close(found, torch.from_numpy(pixels).float()[:, None])


def test_what_is_no_whole_image_is_none(digits_tokenizer: PreTrainedTokenizerBase) -> None:
    cut = load("digits", digits_tokenizer, max_examples=100, max_length=40)
    assert images(cut.train, digits_tokenizer) is None
    words = embedded_tokenizer("polarity")
    assert images(load("polarity", words, max_examples=100).train, words) is None
    short = tokenise(
        [[" ".join(WORDS), " ".join(WORDS * 4)]], np.zeros(2), np.arange(2), digits_tokenizer, 128
    )  # fmt: skip
    assert images(short, digits_tokenizer) is None


def test_sentences_keep_their_own_tokenizer() -> None:
    assert not set(WORDS) & set(embedded_tokenizer("polarity").get_vocab())
