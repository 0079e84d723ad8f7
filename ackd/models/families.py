"""What differs between the model families of transformers, and which of them cannot be distilled."""

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

# Of a config: lists with an entry for each layer, which are cut along with the layers.
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "attention_window")
LEAK, ROUNDING = 1e-3, 1e-5  # shares of what another text changes in the answer, and of the answer itself
LENGTHS = 5, 75  # tokens of a text, and of one beside it: more than a block of those families that cut texts in blocks


def check_family(config: Any) -> None:
    """Refuses the families that no student and no teacher can be of.

    Raises:
        InputError: if transformers has no classifier of it, or it is no encoder or decoder of text.
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
    """The inputs that a model's forward pass names."""
    return _parameters(type(model).forward)


@lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def layer_lists(model: PreTrainedModel) -> list[tuple[str, nn.ModuleList]]:
    """The names and lists of a model's layers: one list, none, or several where a layer's parts lie apart (XLM).

    Of ALBERT, the list of the groups that share weights.
    """
    length = getattr(model.config, "num_hidden_groups", model.config.num_hidden_layers)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == length
        and not any(isinstance(one, nn.ModuleList) for one in module)  # a funnel's blocks of layers
    ]
    parent = found[0][0].rpartition(".")[0] if found else ""
    return [(name, module) for name, module in found if name.rpartition(".")[0] == parent]


def cut_config(config: Any, kept: Sequence[int]) -> None:
    """Leaves only these layers in a config."""
    for name in PER_LAYER:
        entries = getattr(config, name, None)
        if isinstance(entries, list) and len(entries) == config.num_hidden_layers:
            setattr(config, name, [entries[layer] for layer in kept])
    if config.model_type == "gpt_neo":  # its kinds of layers stand in pairs of a list and how often it comes
        config.attention_layers = [config.attention_layers[layer] for layer in kept]
        config.attention_types = [[config.attention_layers, 1]]
    config.num_hidden_layers = len(kept)


def settle(model: PreTrainedModel) -> None:
    """Has BigBird attend in full from the start: it goes over to that at the first short text, and stays with it."""
    for module in model.modules():
        if hasattr(module, "set_attention_type"):
            module.set_attention_type("original_full")


def padding_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that a classifier's config has to name as padding; None if that makes no difference to it.

    A decoder answers from the last token that is none.

    Raises:
        InputError: if it answers a text otherwise beside a longer one, or cannot.
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
    """Asks about a text alone and beside a longer one, and whether the answers differ.

    Raises:
        InputError: if it cannot answer.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    short, long = LENGTHS[0], min(LENGTHS[1], most - 4 if isinstance(most, int) and most > 0 else LENGTHS[1])
    if long <= short:
        return False
    size = model.config.vocab_size
    tokens = torch.arange(2 * long, device=model.device).reshape(2, long) * 7 % max(size - 1, 1)
    tokens += (tokens >= padding).long()  # every token but that one
    mask = torch.ones_like(tokens)
    mask[0, short:] = 0
    tokens = tokens.where(mask.bool(), padding)
    try:
        alone, padded = (answers_to(model, tokens[:1, :short], mask[:1, :short]), answers_to(model, tokens, mask))
        with torch.random.fork_rng():
            answers_to(model, tokens, mask, learning=True)
    except Exception as error:  # hundreds of families refuse texts in many ways
        raise InputError(
            f"a {model.config.model_type} of that config cannot read texts of {short} and {long} tokens side by side "
            f"({reason(error)}), and is not supported: take another family, such as bert"
        ) from error
    apart, other = float((padded[0] - alone[0]).abs().max()), float((padded[1] - alone[0]).abs().max())
    return apart > LEAK * other + ROUNDING * float(alone.abs().max())


def answers_to(model: PreTrainedModel, ids: Tensor, mask: Tensor, *, learning: bool = False) -> Tensor:
    """What a model answers to tokens, [B, n], outside any pass of ours; it is left in the mode that it was in."""
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
