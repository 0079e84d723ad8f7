"""Language models, tokenizers and texts, by their names or handed over."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ackd import models
from ackd.building.sources import folder_of, shown
from ackd.corpora import Document
from ackd.errors import InputError
from ackd.files.json_rows import encodable
from ackd.models import Model, StudentFactory, Tokenizer

TEXT = "text"  # the column that is read of a data set


def given_texts(options: Mapping[str, Any], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as a config has them, and apart from these the texts that are handed over, as documents.

    Args:
        options: by their names.
        names: of those that may be texts.

    Raises:
        InputError: if one is neither a name nor texts.
    """
    plain, objects = dict(options), dict[str, Any]()
    for name in names:
        given = options.get(name)
        if given is not None and not isinstance(given, (str, Path)):
            plain[name], objects[name] = type(given).__name__, _documents(name, given)
    return plain, objects


def _documents(name: str, given: Any) -> list[Document]:
    """A list of texts, or the column of a data set, as documents; empty ones are left out."""
    columns = getattr(given, "column_names", None)
    if isinstance(columns, list) and TEXT in columns:
        given = given[TEXT][:]
    if not isinstance(given, (list, tuple)):
        raise InputError(
            f"{name} is a {type(given).__name__}: give a text file, the folder of a corpus, a Dataset with a column "
            f"{TEXT!r}, or a list of texts"
        )
    for place, one in enumerate(given):
        if not isinstance(one, str) or not encodable(one):
            raise InputError(f"text {place + 1} of {name} is {one!r:.60}: give a list of texts")
    found = [Document(one) for one in given if one.strip()]
    if not found:
        raise InputError(f"{name} has no text")
    return found


def language_model(source: str | Path | Model, device: torch.device, who: str) -> Model:
    """A causal language model; one that is handed over is frozen from then on and in float32.

    Raises:
        InputError: if there is no such model, or it is none.
    """
    if isinstance(source, (str, Path)):
        model = models.load_model(source, device=device, language=True)
    else:
        _check_model(source, who)
        model = models.whole(source, device).eval()
    models.check_causal(model, who)
    return model


def language_tokenizer(source: str | Path | Model, given: Tokenizer | None = None) -> Tokenizer:
    """The tokenizer of a model: that of its folder, or the one that is handed over with a model.

    Raises:
        InputError: if there is none.
    """
    if given is not None and not isinstance(source, (str, Path)):
        return given
    folder = folder_of(source)
    if folder is None:
        raise InputError(f"nothing says in which tokens {shown(source)} reads: hand over its tokenizer with tokenizer=")
    return models.load_tokenizer(folder)


def begins_as(source: Model, who: str) -> StudentFactory:
    """Students that begin as a model that is handed over, which stays as it is.

    Raises:
        InputError: if it is none.
    """
    _check_model(source, who)
    template = models.whole(copy.deepcopy(source)).requires_grad_(True)
    return lambda: copy.deepcopy(template)


def _check_model(given: object, who: str) -> None:
    if not models.is_model(given):
        raise InputError(f"{who} is a {type(given).__name__}: give a folder, a hub id or a transformers model")
