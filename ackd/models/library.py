"""Converts models of sentence-transformers, without importing this library."""

from __future__ import annotations

import tempfile
from typing import Any

from ackd.models.forward import Model
from ackd.models.load import Tokenizer, load_model, load_tokenizer
from ackd.models.pooling import read_pooling

KIND, TOKENIZER = "SentenceTransformer", "_ackd_tokenizer"


def unpacked(given: Any) -> Any:
    """Converts a `SentenceTransformer` to a sentence encoder with its tokenizer; returns other objects unchanged.

    Raises:
        InputError: if its modules are not supported.
    """
    if type(given).__name__ != KIND or not hasattr(given, "save_pretrained"):
        return given
    with tempfile.TemporaryDirectory() as folder:  # unlike its attributes, its files are the same in every version
        given.save_pretrained(folder, create_model_card=False)
        model = load_model(folder, pooling=read_pooling(folder))
        setattr(model, TOKENIZER, load_tokenizer(folder, padding=True))
    model.name_or_path = ""  # the folder has been removed
    return model


def tokenizer_with(model: Model) -> Tokenizer | None:
    """The tokenizer of a model that `unpacked` has converted; None for other models."""
    return getattr(model, TOKENIZER, None)
