"""Tasks that need no files and no network: generated, or included in a library; the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ackd.errors import unknown
from ackd.tasks import digits
from ackd.tasks.dice import Dice
from ackd.tasks.polarity import polarity, tally
from ackd.tasks.rows import Rows
from ackd.tasks.spec import TaskSpec

SIZES = {"train": 8000, "validation": 1000}
LABEL_NOISE = 0.1
SEED = 20
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

CLASSES = ("negative", "positive")
EMBEDDED: dict[str, TaskSpec] = {
    name: TaskSpec(name, ("sentence",), "label", classes, ("accuracy",))
    for name, classes in {"polarity": CLASSES, "tally": CLASSES, "digits": digits.CLASSES}.items()
}
_DRAW: dict[str, Callable[[Dice], tuple[tuple[str, ...], int]]] = {"polarity": polarity, "tally": tally}


@lru_cache(maxsize=4)
def generate(name: str, split: str) -> Rows:
    """The task's `train` or `validation` examples.

    Generated tasks have balanced classes. A tenth of their training labels are flipped, but no validation labels;
    because of this noise, a student with few examples benefits from a teacher that saw all of them.
    """
    if name == "digits":
        return digits.digits(split, SEED)
    place = (list(EMBEDDED).index(name), list(SIZES).index(split))
    draws, noise = (np.random.default_rng(seed) for seed in np.random.SeedSequence(SEED, spawn_key=place).spawn(2))
    dice, size = Dice(draws), SIZES[split]
    examples: list[tuple[tuple[str, ...], int]] = []
    left = [size // 2, size - size // 2]
    while len(examples) < size:
        texts, label = _DRAW[name](dice)
        if left[label]:
            left[label] -= 1
            examples.append((texts, label))
    labels = np.array([label for _, label in examples], np.int64)
    if split == "train":
        labels = np.where(noise.random(size) < LABEL_NOISE, 1 - labels, labels)
    columns = tuple([texts[i] for texts, _ in examples] for i in range(len(EMBEDDED[name].text_columns)))
    return Rows(columns, labels, np.arange(size))


def embedded_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The word-level tokenizer of a generated task.

    All sentence tasks share one tokenizer, so that a teacher of one task can read the others; images have their own.

    Raises:
        InputError: if there is no such task.
    """
    if name not in EMBEDDED:
        raise unknown("generated task", name, EMBEDDED)
    tokenizer = Tokenizer(WordLevel(_vocabulary(name), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep")},
    )


def _vocabulary(name: str) -> dict[str, int]:
    words = digits.WORDS if name == "digits" else _words()
    return {word: i for i, word in enumerate((*SPECIAL, *words))}


@lru_cache(maxsize=1)
def _words() -> tuple[str, ...]:
    words = {
        word for name in _DRAW for column in generate(name, "train").texts for text in column for word in text.split()
    }
    return tuple(sorted(words))
