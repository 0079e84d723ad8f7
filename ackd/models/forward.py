"""A model's outputs by request, its shape and its cost."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from ackd.types import Batch, Needs, Outputs, Shape

Model: TypeAlias = PreTrainedModel

CAPTURE = "ackd_capture"


@dataclass
class _Capture:
    layers: frozenset[int]
    scores: dict[int, Tensor] = field(default_factory=dict)


_capture: ContextVar[_Capture | None] = ContextVar("capture", default=None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that also keeps the scores of the layers asked for, and only of those.

    Switching a model to eager attention would pay for every layer, and gives wrong results on padding when done layer
    by layer.
    """
    capture = _capture.get()
    layer = getattr(module, "layer_idx", None)
    if capture is not None and layer in capture.layers:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        capture.scores[layer] = query @ key.transpose(-1, -2) * scaling
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


AttentionInterface.register(CAPTURE, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(CAPTURE, sdpa_mask)


def run(model: Model, batch: Batch, needs: Needs) -> Outputs:
    """The outputs of `model` that are asked for; nothing else is kept."""
    capture = _Capture(needs.attention) if needs.attention else None
    token = _capture.set(capture)
    try:
        answer = model(**batch.inputs, output_hidden_states=bool(needs.hidden))
    finally:
        _capture.reset(token)
    hidden = {layer: answer.hidden_states[layer + 1] for layer in needs.hidden} if needs.hidden else {}
    return Outputs(answer.logits if needs.logits else None, hidden, capture.scores if capture else {})


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


@dataclass(frozen=True)
class Cost:
    """FLOPs of a forward pass: `B (per_example + n per_token + n^2 per_pair)` for B examples of n tokens."""

    per_example: float
    per_token: float
    per_pair: float

    def forward(self, size: int, length: int) -> float:
        """FLOPs of one forward pass over a padded batch."""
        return size * (self.per_example + length * self.per_token + length**2 * self.per_pair)


def cost_of(model: Model) -> Cost:
    """Counts a model's matrix products at three lengths, which determine its cost at every length exactly."""
    lengths = (8, 16, 24)
    counted = [_count(model, length) for length in lengths]
    powers = np.array([[1.0, n, n**2] for n in lengths])
    return Cost(*(max(float(round(value)), 0.0) for value in np.linalg.solve(powers, counted)))


def _count(model: Model, length: int) -> float:
    ids = torch.ones(1, length, dtype=torch.int64, device=model.device)
    was_training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.eval()(input_ids=ids, attention_mask=ids)
    model.train(was_training)
    return float(counter.get_total_flops())


def can_give_attention(model: Model) -> bool:
    """Whether attention scores can be captured: tried, since no attribute tells."""
    ids = torch.ones(1, 4, dtype=torch.int64, device=model.device)
    layers = frozenset(range(model.config.num_hidden_layers))
    with torch.no_grad():
        outputs = run(
            model, Batch(ids[:, 0], {"input_ids": ids, "attention_mask": ids}, ids[:, 0]), Needs(attention=layers)
        )
    return outputs.attention.keys() == layers


def layer_stack(model: Model) -> tuple[str, nn.ModuleList] | None:
    """The name and the list of a model's layers, if it keeps them in one."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name, module
    return None


def capturing(model: Model) -> Model:
    """The model, with attention that can be captured where its family takes such a function."""
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation(CAPTURE)
    found = layer_stack(model)
    for index, layer in enumerate(found[1] if found else ()):
        for module in layer.modules():
            if not hasattr(module, "layer_idx"):  # some families do not number their layers
                module.layer_idx = index  # type: ignore[assignment]
    return model
