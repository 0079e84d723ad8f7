"""Texts of random sentences, and tiny language models in folders."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ackd import models
from ackd.models import Tokenizer

WORDS = "the sea was calm and old men sat by it with their nets while children ran along sand".split()
GPT: dict[str, Any] = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
GPT |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)


def prose(sentences: int, seed: int = 0) -> str:
    """Paragraphs of random sentences."""
    dice = random.Random(seed)
    lines = [" ".join(dice.choices(WORDS, k=dice.randint(3, 9))).capitalize() + "." for _ in range(sentences)]
    return "\n\n".join(" ".join(lines[start : start + 4]) for start in range(0, sentences, 4)) + "\n"


def tokenizer(vocabulary: int = 300) -> Tokenizer:
    """A tokenizer of the words of `prose`."""
    return models.train_tokenizer([prose(200)], vocabulary)


def saved(folder: Path, *, vocabulary: int = 300, steps: int = 0, seed: int = 0) -> str:
    """The folder of a language model, which has learned `prose` for some steps."""
    its = tokenizer(vocabulary)
    config = AutoConfig.for_model(**GPT, vocab_size=models.vocabulary_size(its), initializer_range=0.1)
    config.bos_token_id = config.eos_token_id = its.eos_token_id
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.from_config(config, language=True)()
        ids = torch.tensor(its(prose(100, seed=9))["input_ids"])
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(steps):
            part = ids[torch.arange(4)[:, None] * 60 + torch.arange(24) + step]
            model(part, labels=part).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    models.save_model(folder, model.eval(), its)
    return str(folder)


def saved_encoder(folder: Path, like: str) -> str:
    """The folder of a BERT that predicts tokens, with the tokenizer of `like`; its tokens see those that follow."""
    its = models.load_tokenizer(like)
    config = AutoConfig.for_model(
        "bert", vocab_size=len(its), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    models.save_model(folder, models.from_config(config, language=True)(), its)
    return str(folder)
