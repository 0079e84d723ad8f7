"""Loads language models, tokenizers and texts, given by name or as objects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ackd import models
from ackd.building.sources import folder_of, shown
from ackd.corpora import given_documents
from ackd.errors import InputError
from ackd.models import Model, StudentFactory, Tokenizer


def given_texts(options: Mapping[str, Any], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits options into plain ones for a config, and texts given as objects, converted to documents.

    Args:
        options: values by option name.
        names: names of the options that may be texts.

    Raises:
        InputError: if a value is neither a name nor texts.
    """
    plain, objects = dict(options), dict[str, Any]()
    for name in names:
        given = options.get(name)
        if given is not None and not isinstance(given, (str, Path)):
            plain[name], objects[name] = type(given).__name__, given_documents(name, given)
    return plain, objects


def language_model(source: str | Path | Model, device: torch.device, who: str) -> Model:
    """Returns a causal language model; a model given as an object is then frozen and converted to float32.

    Raises:
        InputError: if the model does not exist, or is not a causal language model.
    """
    if isinstance(source, (str, Path)):
        model = models.load_model(source, device=device, language=True)
    else:
        _check_model(source, who)
        model = models.whole(source, device).eval()
    models.check_causal(model, who)
    return model


def language_tokenizer(source: str | Path | Model, given: Tokenizer | None = None) -> Tokenizer:
    """Returns the tokenizer of a model: from its folder, or the given one for a model object.

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
    """Returns a factory of students that start as copies of a model; the model itself does not change.

    Raises:
        InputError: if `source` is not a model.
    """
    _check_model(source, who)
    template = models.whole(copy.deepcopy(source)).requires_grad_(True)
    return lambda: copy.deepcopy(template)


def _check_model(given: object, who: str) -> None:
    if not models.is_model(given):
        raise InputError(f"{who} is a {type(given).__name__}: give a folder, a hub id or a transformers model")
