"""Computes a model's outputs by request; outputs that are not requested are neither computed nor stored."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from ackd.errors import InputError
from ackd.models.dropout import CheapDropout
from ackd.models.dropout import dropout as drop
from ackd.models.families import layer_lists, settle, takes
from ackd.models.lookup import look_up
from ackd.models.sentences import pools
from ackd.types import EMBEDDINGS, Batch, ModelDims, OutputKey, OutputRequest, Outputs

Model: TypeAlias = PreTrainedModel

CAPTURE = "ackd_capture"
INSIDE_ATTENTION = ("attention", "queries", "keys", "values")
CALLED_INSIDE = {"squeezebert"}  # families that call their layers' `forward` directly, so hooks do not run


class _Finished(Exception):  # noqa: N818 - no error: the way out of a library's forward pass
    """Stops a forward pass after the last requested layer."""


class _Recorder:
    """Stores the requested outputs of one forward pass, layer by layer."""

    def __init__(self, needs: OutputRequest, shape: tuple[int, int], *, padded: bool, stacked: bool) -> None:
        self.needs, self.shape, self.padded, self.stacked = needs, shape, padded, stacked
        self.last = needs.last_layer
        self.layer = EMBEDDINGS
        self.inside: frozenset[str] = frozenset()  # requested outputs inside the current layer's attention
        self.caught: dict[str, Tensor] = {}
        self.tensors: dict[OutputKey, Tensor] = {}

    def enter(self, states: Tensor) -> None:
        """Called at the start of each layer with its input states."""
        if self.layer == EMBEDDINGS:
            self.keep(states)
        self.layer += 1
        self.inside = frozenset(kind for kind in INSIDE_ATTENTION if self.layer in getattr(self.needs, kind))
        self.caught = {}

    def keep(self, states: Tensor) -> None:
        """Stores the current layer's output states; stops the pass after the last needed layer."""
        for kind, value in self.caught.items():
            self.tensors[OutputKey(kind, self.layer)] = value
        self.keep_states(self.layer, states)
        if self.layer == self.last:
            raise _Finished

    def keep_states(self, layer: int, states: Tensor) -> None:
        """Stores a layer's requested states, if they have one vector per token."""
        size, length = self.shape
        if not isinstance(states, Tensor) or states.dim() != 3 or len(states) != size or states.shape[1] < length:
            return
        if layer in self.needs.hidden:
            self.tensors[OutputKey("hidden", layer)] = states[:, :length]  # Longformer pads to a multiple of its window
        if layer in self.needs.cls:
            self.tensors[OutputKey("cls", layer)] = states[:, 0]

    def keep_library(self, states: Sequence[Tensor], layers: int) -> None:
        """Stores requested states from the library's `hidden_states`; the first ones are the embeddings."""
        for place, one in enumerate(states if len(states) == layers + 1 else ()):
            self.keep_states(place + EMBEDDINGS, one)


# The current passes, innermost last. Not a context variable, because torch.compile does not support them.
_passes: list[_Recorder] = []


def _before_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if _passes:
        _passes[-1].enter(args[0] if args else kwargs["hidden_states"])


def _after_layer(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if _passes:
        _passes[-1].keep(output[0] if isinstance(output, tuple | list) else output)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that also stores the current layer's requested outputs.

    A fused kernel does not return scores, so a layer with requested scores computes its attention step by step; the
    scores are those before mask and dropout. (Eager attention of the whole model would slow down every layer.) The
    step-by-step path also runs for dropout on a CPU, which has no fused kernel, and under `torch.vmap`.
    """
    stacked = bool(_passes) and _passes[-1].stacked
    wanted = _passes[-1].inside if _passes else frozenset()
    for kind, heads in (("queries", query), ("keys", key), ("values", value)):
        if kind in wanted:
            _passes[-1].caught[kind] = heads.transpose(1, 2).flatten(2)  # [B, A, n, d / A] -> [B, n, d]
    if "attention" not in wanted and not stacked and not (dropout > 0 and query.device.type == "cpu"):
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return fused
    if key.shape[1] < query.shape[1]:  # several heads share keys and values
        key, value = (heads.repeat_interleave(query.shape[1] // key.shape[1], 1) for heads in (key, value))
    scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    if "attention" in wanted:
        _passes[-1].caught["attention"] = scores
    if attention_mask is None and _causal(module, kwargs):  # the library omits a purely causal mask
        attention_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attention_mask is not None and attention_mask.dtype != torch.bool:  # an additive mask of some families
        scores = scores + attention_mask
    elif attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    shares = scores.softmax(-1)
    if dropout > 0:
        shares = drop(shares, dropout)
    return (shares @ value).transpose(1, 2).contiguous(), None


def _causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether a layer's attention is causal, by the rule of the library's fused attention."""
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The library's mask, without the padding mask if nothing is padded.

    The library itself would check the padding mask's values, which synchronises the GPU.
    """
    if _passes:
        if _passes[-1].padded:
            kwargs["allow_is_bidirectional_skip"] = False
        else:
            attention_mask = None
    mask: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    return mask


class StackableEmbedding(nn.Embedding):
    """`nn.Embedding` that supports a lookup for many students at once."""

    def forward(self, input: Tensor) -> Tensor:
        """The embeddings of the ids `input`, [..., d]."""
        if not (_passes and _passes[-1].stacked):
            return super().forward(input)
        return look_up(self.weight, input, self.padding_idx)


AttentionInterface.register(CAPTURE, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(CAPTURE, _mask)


def run(
    model: Model, batch: Batch, needs: OutputRequest, weights: dict[str, Tensor] | None = None, *, stacked: bool = False
) -> Outputs:
    """Runs `model` on a batch and returns the requested outputs; layers after the last needed one do not run.

    Args:
        model: the model.
        batch: the examples.
        needs: the requested outputs.
        weights: weights by name, to be used instead of the model's own.
        stacked: whether `weights` are those of many students, under `torch.vmap`.

    Raises:
        InputError: if the model's family cannot return one of the outputs.
    """
    capturing(model)
    recorder = _Recorder(needs, batch.shape, padded=batch.padded, stacked=stacked)
    _passes.append(recorder)
    try:
        inputs = _inputs(model, batch, needs)
        answer = model(**inputs) if weights is None else functional_call(model, weights, kwargs=inputs)
        recorder.tensors[OutputKey("logits")] = answer.logits
        if "output_hidden_states" in inputs:
            recorder.keep_library(answer.hidden_states or (), model.config.num_hidden_layers)
    except _Finished:
        pass
    finally:
        _passes.pop()
    missing = sorted({field.kind for field in needs.fields if field not in recorder.tensors})
    if missing:
        raise InputError(f"a {model.config.model_type} cannot give its {' and '.join(missing)}")
    return Outputs.of({field: recorder.tensors[field] for field in needs.fields})


def _inputs(model: Model, batch: Batch, needs: OutputRequest) -> dict[str, Any]:
    """The arguments of a model's forward pass on a batch."""
    inputs: dict[str, Any] = dict(batch.inputs)
    known = takes(model)
    # a tokenizer of another family may return token types
    if "token_type_ids" not in known or getattr(model.config, "type_vocab_size", 2) < 2:
        inputs.pop("token_type_ids", None)
    if "use_cache" in known:
        inputs["use_cache"] = False  # the cache is for generation only
    if not model._ackd_hooked and (needs.hidden or needs.cls):
        inputs["output_hidden_states"] = True  # of all layers, from the library, if the layers have no hooks
    return inputs


def cannot_give(model: Model, needs: OutputRequest) -> str:
    """Tries to compute the requested outputs; returns the error message, or an empty text on success."""
    ids = torch.zeros(1, 4, dtype=torch.int64, device=model.device)
    batch = Batch(ids[:, 0], {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids[:, 0])
    try:
        with torch.no_grad():
            run(model, batch, needs)
    except InputError as error:
        return str(error)
    return ""


def predicts_tokens(model: Model) -> bool:
    """Whether a model answers each token with logits over its vocabulary, as language models do."""
    return model.get_output_embeddings() is not None


def shape_of(model: Model) -> ModelDims:
    """The sizes of a model.

    Raises:
        InputError: if its config does not contain them.
    """
    config = model.config
    try:
        return ModelDims(
            layers=operator.index(config.num_hidden_layers),
            width=operator.index(config.hidden_size),
            heads=getattr(config, "num_attention_heads", 0),  # a state space model has none
            classes=operator.index(_answers(model)),
            vocabulary=operator.index(config.vocab_size),
        )
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"a {config.model_type} does not say its sizes ({error}): take a family with layers, a width and a "
            "vocabulary, such as bert"
        ) from error


def _answers(model: Model) -> Any:
    """The numbers that a model answers an example with, or each token of it."""
    config = model.config
    if pools(model):
        return config.hidden_size
    return config.vocab_size if predicts_tokens(model) else config.num_labels


def layer_stack(model: Model) -> tuple[str, nn.ModuleList] | None:
    """The name and module list of a model's layers (or weight-sharing groups); None if it is not a single list."""
    lists = layer_lists(model)
    return lists[0] if len(lists) == 1 and model.config.model_type not in CALLED_INSIDE else None


def capturing(model: Model) -> Model:
    """Prepares a model, once, so that `run` can store requested outputs; the model's outputs stay the same.

    Its dropout becomes faster and uses other random numbers.
    """
    if getattr(model, "_ackd_capturing", False):
        return model
    model._ackd_capturing = True
    settle(model)
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation(CAPTURE)
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CheapDropout
        if type(module) is nn.Embedding:
            module.__class__ = StackableEmbedding
    found = layer_stack(model)
    model._ackd_hooked = found is not None
    for layer in found[1] if found else ():
        layer.register_forward_pre_hook(_before_layer, with_kwargs=True)
        layer.register_forward_hook(_after_layer)
    return model


def compiled(model: Model) -> Model:
    """Compiles a model's layers; all layers share the code, which is compiled once per selection.

    The model is not compiled as a whole, because the hooks between the layers would break its graph.
    """
    found = layer_stack(capturing(model))
    for layer in found[1] if found else ():
        layer.forward = torch.compile(layer.forward, dynamic=True)
    return model
