"""Handwritten digits as sentences: an image task for text models, with data from scikit-learn.

1,797 images of 8 x 8 pixels with grey levels from 0 (paper) to 16 (ink). An image becomes a sentence of 64 words, row
by row; each word is a grey level: `p0` to `p16`.

References:
    Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    https://archive.ics.uci.edu/dataset/80
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ackd.split import Split
from ackd.tasks.rows import Rows

SIDE = 8
DEEPEST = 16  # the darkest grey level
WORDS = tuple(f"p{level}" for level in range(DEEPEST + 1))
CLASSES = tuple("zero one two three four five six seven eight nine".split())
DEV_SHARE = 0.2


def digits(split: str, seed: int) -> Rows:
    """The `train` or `validation` images; validation is a fifth of each class, drawn by `seed`."""
    from sklearn.datasets import load_digits  # slow to import

    levels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for label in range(len(CLASSES)):
        indices = rng.permutation(np.flatnonzero(labels == label))
        held.append(indices[: round(DEV_SHARE * len(indices))])
    validation = np.sort(np.concatenate(held))
    chosen = validation if split == "validation" else np.setdiff1d(np.arange(len(labels)), validation)
    sentences = [" ".join(WORDS[level] for level in image) for image in levels[chosen].astype(np.int64).tolist()]
    return Rows((sentences,), labels[chosen].astype(np.int64), chosen)


def images(split: Split, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
    """Converts tokenised sentences back to images, [N, 1, 8, 8] in [0, 1]; None if an image is incomplete.

    Images are incomplete if the tokenizer splits words, or the examples were truncated.
    """
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() >= set(WORDS):
        return None
    levels = np.full(max(vocabulary.values()) + 1, -1)
    levels[[vocabulary[word] for word in WORDS]] = np.arange(len(WORDS))
    pixels = levels[split.inputs["input_ids"]]
    marks = np.add.reduceat(pixels < 0, split.offsets[:-1])  # number of each example's tokens that are no grey level
    if ((split.lengths - marks) != SIDE**2).any():
        return None
    whole = pixels[pixels >= 0].reshape(-1, 1, SIDE, SIDE)
    return torch.from_numpy(whole).float() / DEEPEST
