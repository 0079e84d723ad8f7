"""A model's outputs by request: what is not asked for is neither computed nor kept."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from ackd.errors import InputError
from ackd.types import EMBEDDINGS, Batch, Field, Needs, Outputs, Shape

Model: TypeAlias = PreTrainedModel

CAPTURE = "ackd_capture"


class _Finished(Exception):
    """The last layer that anybody asked for has answered."""


class _Recorder:
    """What one forward pass keeps, layer by layer."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.last = needs.last_layer
        self.layer = EMBEDDINGS
        self.tensors: dict[Field, Tensor] = {}

    def keep(self, states: Tensor) -> None:
        """The states that leave the present layer; stops the pass behind the last one that is needed."""
        if self.layer in self.needs.hidden:
            self.tensors[Field("hidden", self.layer)] = states
        if self.layer in self.needs.cls:
            self.tensors[Field("cls", self.layer)] = states[:, 0]
        if self.layer == self.last:
            raise _Finished

    def keep_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """What the present layer's attention works with, [B, A, n, d / A] each."""
        for kind, heads in (("queries", query), ("keys", key), ("values", value)):
            if self.layer in getattr(self.needs, kind):
                self.tensors[Field(kind, self.layer)] = heads.transpose(1, 2).flatten(2)


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


def _before_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    recorder = _recorder.get()
    if recorder is not None:
        if recorder.layer == EMBEDDINGS:
            recorder.keep(args[0] if args else kwargs["hidden_states"])
        recorder.layer += 1


def _after_layer(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    recorder = _recorder.get()
    if recorder is not None:
        recorder.keep(output[0] if isinstance(output, tuple) else output)


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
    """Scaled dot-product attention that also keeps what is asked of the present layer, and only of that.

    A fused kernel has no scores to show, so a layer whose scores are asked for computes its attention step by step:
    the scores are those before mask and dropout. Switching the model to eager attention would pay for every layer.
    """
    recorder = _recorder.get()
    if recorder is not None:
        recorder.keep_inputs(query, key, value)
        if recorder.layer in recorder.needs.attention:
            scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
            recorder.tensors[Field("attention", recorder.layer)] = scores
            if attention_mask is not None:
                scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
            shares = F.dropout(scores.softmax(-1), dropout, training=dropout > 0)
            return (shares @ value).transpose(1, 2).contiguous(), None
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output, None


def _mask(*args: Any, device: torch.device | str = "cpu", **kwargs: Any) -> Tensor | None:
    """The library's mask, which on a GPU must not look whether it could be left out: the host would wait for that."""
    if torch.device(device).type != "cpu":
        kwargs["allow_is_bidirectional_skip"] = kwargs.get("attention_mask") is None
    mask: Tensor | None = sdpa_mask(*args, device=device, **kwargs)
    return mask


AttentionInterface.register(CAPTURE, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(CAPTURE, _mask)


def run(model: Model, batch: Batch, needs: Needs) -> Outputs:
    """The outputs of `model` that are asked for; the layers behind the last one needed do not run.

    Raises:
        InputError: if the model's family cannot give one of them.
    """
    capturing(model)
    recorder = _Recorder(needs)
    token = _recorder.set(recorder)
    # without padding the mask says nothing, and leaving it out lets attention take its fastest way
    inputs = {k: v for k, v in batch.inputs.items() if k != "attention_mask" or batch.padded}
    try:
        recorder.tensors[Field("logits")] = model(**inputs).logits
    except _Finished:
        pass
    finally:
        _recorder.reset(token)
    missing = sorted({field.kind for field in needs.fields if field not in recorder.tensors})
    if missing:
        raise InputError(f"a {model.config.model_type} cannot give its {' and '.join(missing)}")
    return Outputs.of({field: recorder.tensors[field] for field in needs.fields})


def cannot_give(model: Model, needs: Needs) -> str:
    """Why a model cannot give what is asked for, found by trying; empty if it can."""
    ids = torch.ones(1, 4, dtype=torch.int64, device=model.device)
    batch = Batch(torch.zeros(1, dtype=torch.int64), {"input_ids": ids, "attention_mask": ids}, ids[:, 0])
    try:
        with torch.no_grad():
            run(model, batch, needs)
    except InputError as error:
        return str(error)
    return ""


def shape_of(model: Model) -> Shape:
    """The sizes of a model."""
    config = model.config
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        classes=config.num_labels,
        vocabulary=config.vocab_size,
    )


def layer_stack(model: Model) -> tuple[str, nn.ModuleList] | None:
    """The name and the list of a model's layers, or of the groups that share weights, if it keeps them in one."""
    config = model.config
    length = getattr(config, "num_hidden_groups", config.num_hidden_layers)  # ALBERT runs each group several times
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return name, module
    return None


def capturing(model: Model) -> Model:
    """The model, changed once so that a pass can keep what is asked for; what it answers stays the same."""
    if getattr(model, "_ackd_capturing", False):
        return model
    model._ackd_capturing = True  # type: ignore[assignment]
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation(CAPTURE)
    found = layer_stack(model)
    for layer in found[1] if found else ():
        layer.register_forward_pre_hook(_before_layer, with_kwargs=True)
        layer.register_forward_hook(_after_layer)
    return model
