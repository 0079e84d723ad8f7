"""Counts the FLOPs of a model's passes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ackd.models.forward import Model, capturing, layer_stack, run
from ackd.types import EMBEDDINGS, Batch, OutputRequest

LENGTHS = (8, 16, 24)
POSITIONS = 32  # at least; more than the longest length, as some families number positions from 2
SMALL = 1_000_000  # weights; for smaller models, computing with zeros is faster than meta tensors
_KNOWN: dict[tuple[type[Model], str, str], dict[int | None, Cost]] = defaultdict(dict)  # by type and config


@dataclass(frozen=True)
class Cost:
    """FLOPs of a forward pass: `B (per_example + n per_token + n^2 per_pair)` for B examples of n tokens."""

    per_example: float
    per_token: float
    per_pair: float

    def forward(self, size: int, length: int) -> float:
        """FLOPs of one forward pass over a padded batch."""
        return size * (self.per_example + length * self.per_token + length**2 * self.per_pair)


class Meter:
    """Counts the FLOPs of a model's passes.

    The matrix products at three lengths determine the FLOPs at every length; one pass at each length counts them up to
    every layer. The meter runs a copy of the model on the meta device, which needs neither memory nor arithmetic. Small
    models are counted faster with zeros as weights, and families that read tensor values need them. Models of the same
    type and config are counted once per process.

    Args:
        model: the model; only its type and config matter.
    """

    def __init__(self, model: Model) -> None:
        self._kind, self._config = type(model), copy.deepcopy(model.config)
        built = self._kind, str(model.config._attn_implementation), model.config.to_json_string(use_diff=False)
        self._known = _KNOWN[built]  # by the last computed layer

    def __call__(self, needs: OutputRequest) -> Cost:
        """The cost of a forward pass that computes `needs`: all layers up to the last needed one."""
        if not self._known:
            counts = _counts(_twin(self._kind, self._config), LENGTHS)
            powers = np.array([[1.0, n, n**2] for n in LENGTHS])
            for last in counts[0]:
                exact = np.linalg.solve(powers, [count[last] for count in counts])
                self._known[last] = Cost(*(max(float(round(value)), 0.0) for value in exact))
        return self._known.get(needs.last_layer, self._known[None])


def _twin(kind: type[Model], config: Any) -> Model:
    """A copy of a model for counting: on the meta device, or with zeros as weights if it is small."""
    config = copy.deepcopy(config)
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = "eager"  # torch's counter supports its products
    if 0 < (getattr(config, "max_position_embeddings", None) or 0) < POSITIONS:
        config.max_position_embeddings = POSITIONS  # positions cost nothing, and the longest length needs them
    with torch.device("meta"):
        twin = capturing(kind(config).eval())
    if sum(weight.numel() for weight in twin.parameters()) <= SMALL:
        twin._apply(lambda weight: torch.zeros(weight.shape, dtype=weight.dtype))
    return twin


def _counts(twin: Model, lengths: Sequence[int]) -> list[dict[int | None, float]]:
    """The FLOPs of a pass over one text of each length, as `_count` returns them."""
    try:
        return [_count(twin, length) for length in lengths]
    except Exception:  # families that read tensor values raise many kinds of errors
        twin._apply(lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))
        return [_count(twin, length) for length in lengths]


def _count(model: Model, length: int) -> dict[int | None, float]:
    """FLOPs of a forward pass over one text up to the end of each layer, and of the whole pass under None.

    Layers count as in `run`. A family whose layers have no hooks has only the whole pass, because it cannot stop early.
    """
    ids = torch.ones(1, length, dtype=torch.int64, device=model.device)
    batch = Batch(torch.zeros(1), {"input_ids": ids, "attention_mask": ids}, ids[:, 0], torch.tensor([length]))
    counter, found = FlopCounterMode(display=False), dict[int | None, float]()

    def before(*_: Any) -> None:
        found.setdefault(EMBEDDINGS, float(counter.get_total_flops()))

    def after(*_: Any) -> None:
        found[len(found) + EMBEDDINGS] = float(counter.get_total_flops())

    _, layers = layer_stack(model) or ("", ())
    hooks = [one.register_forward_pre_hook(before) for one in layers]
    hooks += [one.register_forward_hook(after) for one in layers]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            run(model, batch, OutputRequest(logits=True))
    finally:
        for hook in hooks:
            hook.remove()
    return found | {None: float(counter.get_total_flops())}
