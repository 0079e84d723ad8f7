"""A tokenizer of whole words, sentences of them in a file, and tiny models in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Words
from tokenizers import pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ackd import models, tasks
from ackd.models import Model, Tokenizer

SPECIAL, VOCABULARY = ("[PAD]", "[BOS]", "[EOS]", "[UNK]"), 64


def tokenizer(**special: str) -> Tokenizer:
    """Its words are `w4` to `w63`; `special` names what is padding, and what ends a text."""
    words = {word: i for i, word in enumerate((*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), VOCABULARY))))}
    learned = Words(WordLevel(words, unk_token="[UNK]"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=learned, unk_token="[UNK]", **special)


def write_sentences(path: Path) -> Path:
    """140 sentences of 2 to 9 words, whose class is whether the first word has an even number."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(len(SPECIAL), VOCABULARY, rng.integers(2, 10)) for _ in range(140)]
    lines = [f"{' '.join(f'w{i}' for i in row)},{'even' if row[0] % 2 == 0 else 'odd'}" for row in rows]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def settings(data: Path, **rest: Any) -> dict[str, Any]:
    """What `ackd.prepare` needs to distil on the sentences."""
    its = {"task": "own", "data": str(data), "text_columns": ["text"], "label_column": "label", "reward_examples": 50}
    return {**its, "steps": 1, "batch_size": 4, "max_length": 16, "lr": 1e-2, **rest}


def save(folder: Path, model: Model, its: Tokenizer) -> str:
    """The folder, with a model that has learned from nothing."""
    models.save_model(folder, model, its)
    tasks.write_seen(folder, tasks.NOTHING)
    return str(folder)
