"""Tiny sentence encoders in folders, sentences of whole words, and scored pairs of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ackd import models, tasks
from ackd.models import Model, Pooling
from tests.models import small

PAIR = ("sentence1", "sentence2", "score")


def encoder(*, pooling: Pooling | None = None, seed: int = 0, **sizes: Any) -> Model:
    """With random weights."""
    config = models.small_config(small.VOCABULARY, 2, **{"layers": 3, "width": 16, "heads": 2, **sizes})
    config.initializer_range = 0.3  # so that texts differ
    config.pad_token_id = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(models.pooling_config(config, pooling or Pooling()))().eval()


def saved(folder: Path, *, pooling: Pooling | None = None, seed: int = 0, **sizes: Any) -> str:
    """The folder of a random encoder with a tokenizer of whole words, in sentence-transformers' layout."""
    models.save_encoder(folder, encoder(pooling=pooling, seed=seed, **sizes), small.tokenizer(pad_token="[PAD]"), 32)
    tasks.write_seen(folder, tasks.NOTHING)
    return str(folder)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Distinct sentences of 3 to 9 words."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(f"w{i}" for i in rng.integers(len(small.SPECIAL), small.VOCABULARY, rng.integers(3, 10)))] = None
    return list(found)


def pairs(count: int, seed: int = 1) -> list[tuple[str, str, float]]:
    """Sentences beside others that share some of their words, and five times the share."""
    rng = np.random.default_rng(seed)
    found = []
    for text, other in zip(sentences(count, seed), sentences(count, seed + 1), strict=True):
        words, strange = text.split(), other.split()
        kept = int(rng.integers(len(words) + 1))
        found.append((text, " ".join([*words[:kept], *strange[: len(words) - kept]]), 5 * kept / len(words)))
    return found


def write(folder: Path, *, learn: int = 120, report: int = 60) -> dict[str, str]:
    """Files of sentences and of pairs, as options of a distillation."""
    (folder / "sentences.txt").write_text("\n".join(sentences(learn)) + "\n", encoding="utf-8")
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([PAIR, *pairs(report)])
    return {"data": str(folder / "sentences.txt"), "dev_data": str(folder / "pairs.csv")}
