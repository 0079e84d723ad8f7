"""Models of the library sentence-transformers, which is not imported here."""

from __future__ import annotations

import tempfile
from typing import Any

from ackd.models.forward import Model
from ackd.models.load import Tokenizer, load_model, load_tokenizer
from ackd.models.pooling import read_pooling

KIND, TOKENIZER = "SentenceTransformer", "_ackd_tokenizer"


def unpacked(given: Any) -> Any:
    """A copy of what a `SentenceTransformer` holds, as a sentence encoder with its tokenizer; anything else as it is.

    Raises:
        InputError: if its modules are not supported.
    """
    if type(given).__name__ != KIND or not hasattr(given, "save_pretrained"):
        return given
    with tempfile.TemporaryDirectory() as folder:  # its layout says what its attributes say, in every version
        given.save_pretrained(folder, create_model_card=False)
        model = load_model(folder, pooling=read_pooling(folder))
        setattr(model, TOKENIZER, load_tokenizer(folder, padding=True))
    model.name_or_path = ""  # the folder is gone
    return model


def tokenizer_with(model: Model) -> Tokenizer | None:
    """The tokenizer that came with a model of `unpacked`."""
    return getattr(model, TOKENIZER, None)
