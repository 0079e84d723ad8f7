"""Differences between the model families of transformers, and checks for unsupported families."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

from ackd.errors import InputError, reason

# Fields of a config with one entry per layer; they are cut together with the layers.
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "attention_window")
LEAK, ROUNDING = 1e-3, 1e-5  # tolerances of `_leaks`, relative to the effect of another text and to the logits
LENGTHS = 5, 75  # tokens of a short and a long text; 75 is more than a block of families that split texts in blocks


def check_family(config: Any) -> None:
    """Refuses model families that are not supported.

    Raises:
        InputError: if transformers has no classifier of the family, or it is no text encoder or text decoder.
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise InputError(
            f"a {kind} is an encoder-decoder, and these are not supported: take an encoder, such as bert or "
            "deberta-v2, or a decoder, such as gpt2 or llama"
        )
    if kind in CONFIG_MAPPING_NAMES and kind not in CLASSIFIERS:
        raise InputError(f"transformers has no sequence classifier of the family {kind}: take another, such as bert")
    if any(getattr(config, name, None) is not None for name in ("vision_config", "audio_config")):
        raise InputError(f"a {kind} reads more than text, and is not supported: take a model of text alone")


def takes(model: PreTrainedModel) -> frozenset[str]:
    """The names of the arguments of a model's forward pass."""
    return _parameters(type(model).forward)


@lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def layer_lists(model: PreTrainedModel) -> list[tuple[str, nn.ModuleList]]:
    """The module lists of a model's layers, with their names.

    There is one list, none, or several if the parts of a layer are in separate lists (XLM). For ALBERT, it is the list
    of the groups that share weights.
    """
    length = getattr(model.config, "num_hidden_groups", model.config.num_hidden_layers)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == length
        and not any(isinstance(one, nn.ModuleList) for one in module)  # Funnel's blocks of layers
    ]
    parent = found[0][0].rpartition(".")[0] if found else ""
    return [(name, module) for name, module in found if name.rpartition(".")[0] == parent]


def cut_config(config: Any, kept: Sequence[int]) -> None:
    """Removes all layers but `kept` from a config."""
    for name in PER_LAYER:
        entries = getattr(config, name, None)
        if isinstance(entries, list) and len(entries) == config.num_hidden_layers:
            setattr(config, name, [entries[layer] for layer in kept])
    if config.model_type == "gpt_neo":  # `attention_types` contains pairs of a list and its number of repeats
        config.attention_layers = [config.attention_layers[layer] for layer in kept]
        config.attention_types = [[config.attention_layers, 1]]
    config.num_hidden_layers = len(kept)


def settle(model: PreTrainedModel) -> None:
    """Sets BigBird to full attention from the start; otherwise it switches permanently at the first short text."""
    for module in model.modules():
        if hasattr(module, "set_attention_type"):
            module.set_attention_type("original_full")


def padding_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The padding token that a classifier's config must have; None if the model does not need one.

    A decoder needs it, because it classifies from the last token that is no padding.

    Raises:
        InputError: if padding changes the model's logits of a text, or the model cannot run.
    """
    config: Any = model.config
    padding: int | None = tokenizer.pad_token_id
    kind = config.model_type
    if config.pad_token_id is None:
        config.pad_token_id = padding
    try:
        if not _leaks(model, padding or 0):
            return padding if config.pad_token_id == padding else None
    except InputError:
        if config.pad_token_id is not None:
            raise
        raise InputError(
            f"neither the config of the {kind} nor its tokenizer names a padding token, or an end of text that could "
            "stand for one: save the tokenizer with a pad_token"
        ) from None
    config.pad_token_id = padding
    if _leaks(model, padding or 0):
        raise InputError(
            f"a {kind} answers a text otherwise when a longer one is beside it, for it takes padding for a part of the "
            "text, and is not supported: take another family, such as bert"
        )
    return padding


def _leaks(model: PreTrainedModel, padding: int) -> bool:
    """Whether the logits of a text change if it is padded next to a longer text.

    Raises:
        InputError: if the model cannot run.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    short, long = LENGTHS[0], min(LENGTHS[1], most - 4 if isinstance(most, int) and most > 0 else LENGTHS[1])
    if long <= short:
        return False
    size = model.config.vocab_size
    tokens = torch.arange(2 * long, device=model.device).reshape(2, long) * 7 % max(size - 1, 1)
    tokens += (tokens >= padding).long()  # skips the padding token
    mask = torch.ones_like(tokens)
    mask[0, short:] = 0
    tokens = tokens.where(mask.bool(), padding)
    try:
        alone, padded = (answers_to(model, tokens[:1, :short], mask[:1, :short]), answers_to(model, tokens, mask))
        with torch.random.fork_rng():
            answers_to(model, tokens, mask, learning=True)
    except Exception as error:  # model families raise many kinds of errors
        raise InputError(
            f"a {model.config.model_type} of that config cannot read texts of {short} and {long} tokens side by side "
            f"({reason(error)}), and is not supported: take another family, such as bert"
        ) from error
    apart, other = float((padded[0] - alone[0]).abs().max()), float((padded[1] - alone[0]).abs().max())
    return apart > LEAK * other + ROUNDING * float(alone.abs().max())


def answers_to(model: PreTrainedModel, ids: Tensor, mask: Tensor, *, learning: bool = False) -> Tensor:
    """A model's logits of tokens, [B, n], from a plain forward pass; the model's mode is restored afterwards."""
    before, known = model.training, takes(model)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if "use_cache" in known:
        inputs["use_cache"] = False
    with torch.no_grad():
        logits = model.train(learning)(**inputs).logits
    model.train(before)
    if not isinstance(logits, Tensor):
        raise TypeError(f"it answers with {type(logits).__name__}")
    return logits
