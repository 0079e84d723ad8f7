"""Models and tokenizers from folders and from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ackd.errors import InputError
from ackd.models.forward import Model

Tokenizer: TypeAlias = PreTrainedTokenizerBase


def load_model(
    source: str | Path, *, device: torch.device | str = "cpu", language: bool = False, **config: Any
) -> Model:
    """A sequence classifier, or a causal language model, from a folder or the hub, in float32.

    Args:
        source: a Hugging Face folder, a run's folder that holds a model, or a hub id.
        device: where to put it.
        language: a causal language model rather than a classifier.
        **config: settings of the model's config to change, as `num_labels`.

    Raises:
        InputError: if there is no such model.
    """
    folder = model_folder(source)
    _quieten()
    family = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    try:
        model: Model = family.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, **config
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(_cannot_load("model", folder, error)) from error
    return model.to(device)


def save_model(folder: str | Path, model: Model, tokenizer: Tokenizer) -> None:
    """Writes a model and its tokenizer as any Hugging Face tool reads them."""
    _quieten()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tokenizer(folder: str | Path, tokenizer: Tokenizer) -> None:
    """Writes a tokenizer alone, as any Hugging Face tool reads it."""
    _quieten()
    tokenizer.save_pretrained(folder)


def _quieten() -> None:
    """Stops the library's own bars and notes, which would run into ours."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer of a folder or a hub id.

    Raises:
        InputError: if there is none.
    """
    folder = str(source) if (Path(source) / "tokenizer_config.json").is_file() else model_folder(source)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(_cannot_load("tokenizer", folder, error)) from error


def model_folder(source: str | Path) -> str:
    """Where a model lies: `source`, its `model/` or `student/` if it is a run's folder, or a hub id as it is.

    Raises:
        InputError: if `source` is a folder without a model, or looks like a path and does not exist.
    """
    path = Path(source)
    for candidate in (path, path / "model", path / "student"):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return str(candidate)
    if path.is_dir():
        raise InputError(f"there is no model in {source}: expected config.json and model.safetensors")
    if path.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1:
        raise InputError(f"there is no folder {source}")
    return str(source)


def _cannot_load(what: str, source: str, error: Exception) -> str:
    if Path(source).is_dir():
        reason = str(error).splitlines()[0][:200]
        return f"the {what} in {source} cannot be read ({reason}): it may be damaged or incomplete"
    return (
        f"there is no {what} {source!r}: it is no folder here, and the hub has no such {what} or cannot be reached; "
        "give a local folder, or connect to the network"
    )


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids the same meaning."""
    return bool(one.get_vocab() == other.get_vocab())


def class_names(model: Model) -> Sequence[str]:
    """The names a model gives its classes, by id; empty if it only numbers them."""
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    return [] if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names
