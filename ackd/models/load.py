"""Loads and saves models and tokenizers (folders and Hugging Face hub)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ackd.errors import InputError, reason
from ackd.models.families import check_family
from ackd.models.forward import Model, shape_of
from ackd.models.guard import SLACK, check_runs, limited, read_settings
from ackd.models.pooling import Pooling, write_layout
from ackd.models.sentences import ATTRIBUTE, SentenceEncoders, pooling_of

Config: TypeAlias = PretrainedConfig
Tokenizer: TypeAlias = PreTrainedTokenizerBase

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TRIAL = "a bc, d-e. \u2603"  # words, punctuation, and a character that few vocabularies contain


def load_model(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    language: bool = False,
    new_head: bool = False,
    pooling: Pooling | None = None,
    **config: Any,
) -> Model:
    """Loads a classifier, a causal language model or a sentence encoder from a folder or the hub, in float32.

    Args:
        source: a Hugging Face folder, a run's folder with a model, or a hub id.
        device: the model's device.
        language: whether to load a causal language model instead of a classifier.
        new_head: whether a head and pooler that are missing or of another size get random weights.
        pooling: the pooling of a sentence encoder, which is loaded without a head; None: another model.
        **config: changed settings of the model's config, e.g. `num_labels`.

    Raises:
        InputError: if the model does not exist, is damaged, or lacks weights.
    """
    folder = model_folder(source)
    quieten()
    family: Any = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    family = family if pooling is None else SentenceEncoders(pooling)
    weights = Path(folder) / WEIGHTS
    if weights.is_file():
        read_settings(Path(folder) / CONFIG)
        # a number needs at least 8 bits in the file and may belong to two tied tensors
        most = 2 * weights.stat().st_size + SLACK
    else:
        most = sys.maxsize  # hub id: the file size is not known
    refusal = f"the model in {folder} cannot be read: its {CONFIG} has larger sizes than {WEIGHTS} holds weights for"
    try:
        if not language:
            check_family(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        with limited(most, refusal):
            model, found = family.from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=new_head,
                **config,
            )
        _check_whole(folder, model, found, new_head=new_head, body=pooling is not None)
        check_runs(model)
    except InputError:
        raise
    except Exception as error:  # model families raise many kinds of errors
        raise InputError(_cannot_load("model", folder, error)) from error
    return model.to(device)


def _check_whole(folder: str, model: Model, found: Mapping[str, Any], *, new_head: bool, body: bool) -> None:
    """Refuses a model with random weights that should have been in the file; `body`: whether it has no head."""
    drawn = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    prefix = "" if body else f"{model.base_model_prefix}."
    lost = [name for name in drawn if name.startswith(prefix) and ".pooler." not in f".{name}"]
    if lost:
        raise InputError(
            f"the model in {folder} has no weights for {len(lost)} tensors that its {CONFIG} asks for, {lost[0]} among "
            f"them: {CONFIG} and {WEIGHTS} do not belong together"
        )
    if body:
        for name in drawn:  # weights of a pooler, whose output is not used
            torch.nn.init.zeros_(model.get_parameter(name))
    elif drawn and not new_head:
        raise InputError(
            f"the model in {folder} has no weights for {', '.join(drawn)}: train it first, as ackd finetune does"
        )


def save_model(folder: str | Path, model: Model, tokenizer: Tokenizer) -> None:
    """Writes a model and its tokenizer in Hugging Face format."""
    quieten()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_encoder(folder: str | Path, model: Model, tokenizer: Tokenizer, max_length: int) -> None:
    """Writes a sentence encoder for texts of up to `max_length` tokens, in the layout of sentence-transformers."""
    pooling, width = pooling_of(model.config), shape_of(model).width
    assert pooling is not None
    attribute = vars(model.config).pop(ATTRIBUTE)  # the layout has other files for it
    try:
        save_model(folder, model, tokenizer)
    finally:
        setattr(model.config, ATTRIBUTE, attribute)
    write_layout(folder, pooling, width, max_length)


def save_tokenizer(folder: str | Path, tokenizer: Tokenizer) -> None:
    """Writes a tokenizer in Hugging Face format."""
    quieten()
    tokenizer.save_pretrained(folder)


def quieten() -> None:
    """Turns off the library's progress bars and messages, which would mix with those of ackd."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_tokenizer(source: str | Path, *, padding: bool = False) -> Tokenizer:
    """Loads the tokenizer of a folder or a hub id.

    Args:
        source: the folder or the id.
        padding: whether it has to pad texts; without a padding token (e.g. GPT-2), the end-of-text token is used.

    Raises:
        InputError: if the tokenizer does not exist or is damaged.
    """
    folder = str(source) if (Path(source) / "tokenizer_config.json").is_file() else model_folder(source)
    quieten()
    if (Path(folder) / CONFIG).is_file():
        read_settings(Path(folder) / CONFIG)  # the library reads this file as well
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        length = tokenizer.model_max_length
        if type(length) not in (int, float) or not length > 0:
            raise ValueError(f"it cuts texts at {str(length)[:40]!r} tokens")
        with unchanged(tokenizer):
            ids = tokenizer([TRIAL, ""], truncation=True, max_length=8)["input_ids"]
        if not all(type(one) is int and one >= 0 for row in ids for one in row):
            raise ValueError("its tokens are no numbers")
        if padding:
            padded(tokenizer)
    except BaseException as error:  # the tokenizers library raises plain exceptions, and panics (no `Exception`)
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(_cannot_load("tokenizer", folder, error)) from error
    return tokenizer


@contextmanager
def unchanged(tokenizer: Tokenizer) -> Iterator[None]:
    """Context manager that restores a tokenizer's truncation and padding settings.

    Calls of the tokenizer change these settings, and saving would write the changed ones.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation()
        backend.no_padding()
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def padded(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with a padding token; if it has none (e.g. GPT-2), the end-of-text token is used."""
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_folder(source: str | Path) -> str:
    """The folder of a model: `source`, or its subfolder `model/` or `student/`.

    A hub id is returned unchanged.

    Raises:
        InputError: if `source` is empty, a folder without a model, or a path that does not exist.
    """
    if not str(source):
        raise InputError("the name of a model is empty: give a folder or a hub id")
    path = Path(source)
    for candidate in (path, path / "model", path / "student"):
        if (candidate / CONFIG).is_file() and (candidate / WEIGHTS).is_file():
            return str(candidate)
    if path.is_dir():
        raise InputError(f"there is no model in {source}: expected {CONFIG} and {WEIGHTS}")
    if path.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1:
        raise InputError(f"there is no folder {source}")
    return str(source)


def is_model(given: object) -> TypeGuard[Model]:
    """Whether the object is a transformers model."""
    return isinstance(given, PreTrainedModel)


def is_config(given: object) -> TypeGuard[Config]:
    """Whether the object is a transformers config."""
    return isinstance(given, PretrainedConfig)


def as_saved(model: Model, folder: str | Path) -> bool:
    """Whether a model's weights equal those in a folder, so that the folder's description applies to it."""
    if not (Path(folder) / WEIGHTS).is_file():
        return False
    state = model.state_dict()
    try:
        with safe_open(Path(folder) / WEIGHTS, "pt") as file:
            return all(
                name in state and torch.equal(state[name].cpu().float(), file.get_tensor(name).float())
                for name in file.keys()  # noqa: SIM118 - it is no mapping
            )
    except (OSError, SafetensorError):  # the file has changed since the model was read
        return False


def whole(model: Model, device: torch.device | str = "cpu") -> Model:
    """Moves a model to a device, in float32 (also in its config), as if it were loaded from a folder."""
    model = model.to(device=device, dtype=torch.float32)
    model.config.dtype = torch.float32
    return model


def is_classifier(source: str | Path) -> bool:
    """Whether a model was saved as a sequence classifier, so that it may have learned a task."""
    folder = model_folder(source)
    if (Path(folder) / CONFIG).is_file():
        saved = read_settings(Path(folder) / CONFIG).get("architectures")
    else:
        try:
            saved = AutoConfig.from_pretrained(folder, trust_remote_code=False).architectures
        except Exception:  # loading the model will report the error
            return False
    return isinstance(saved, list) and any("ForSequenceClassification" in str(one) for one in saved)


def _cannot_load(what: str, source: str, error: BaseException) -> str:
    if Path(source).is_dir():
        return f"the {what} in {source} cannot be read ({reason(error)}): it may be damaged or incomplete"
    return (
        f"there is no {what} {source!r}: it is no folder here, and the hub has no such {what} or cannot be reached; "
        "give a local folder, or connect to the network"
    )


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers have the same vocabulary."""
    return bool(one.get_vocab() == other.get_vocab())


def class_names(model: Model) -> Sequence[str]:
    """A model's class names, by id; empty if they are only numbered."""
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    return [] if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names
