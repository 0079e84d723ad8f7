"""Counts the FLOPs of a model's passes."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ackd.models.forward import Model, run
from ackd.types import Batch, OutputRequest

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

    The matrix products at three lengths determine the FLOPs at every length. The meter runs a copy of the model on the
    meta device, which needs neither memory nor arithmetic. Small models are counted faster with zeros as weights, and
    families that read tensor values need them. Models of the same type and config are counted once per process.

    Args:
        model: the model; only its type and config matter.
    """

    def __init__(self, model: Model) -> None:
        self._kind, self._config = type(model), copy.deepcopy(model.config)
        built = self._kind, str(model.config._attn_implementation), model.config.to_json_string(use_diff=False)
        self._known = _KNOWN[built]  # by the last computed layer

    @cached_property
    def _twin(self) -> Model:
        config = copy.deepcopy(self._config)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # torch's counter supports its products
        if 0 < (getattr(config, "max_position_embeddings", None) or 0) < POSITIONS:
            config.max_position_embeddings = POSITIONS  # positions cost nothing, and the longest length needs them
        with torch.device("meta"):
            twin = self._kind(config).eval()
        needs = OutputRequest(logits=True)
        if sum(weight.numel() for weight in twin.parameters()) <= SMALL:
            return twin._apply(lambda weight: torch.zeros(weight.shape, dtype=weight.dtype))
        try:
            _count(twin, needs, LENGTHS[0])
        except Exception:  # families that read tensor values raise many kinds of errors
            twin._apply(lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))
        return twin

    def __call__(self, needs: OutputRequest) -> Cost:
        """The cost of a forward pass that computes `needs`: all layers up to the last needed one."""
        last = needs.last_layer
        if last not in self._known:
            powers = np.array([[1.0, n, n**2] for n in LENGTHS])
            far = OutputRequest(logits=True) if last is None else OutputRequest(cls=frozenset({last}))
            exact = np.linalg.solve(powers, [_count(self._twin, far, length) for length in LENGTHS])
            self._known[last] = Cost(*(max(float(round(value)), 0.0) for value in exact))
        return self._known[last]


def _count(model: Model, needs: OutputRequest, length: int) -> float:
    """FLOPs of a forward pass over one text."""
    ids = torch.ones(1, length, dtype=torch.int64, device=model.device)
    batch = Batch(torch.zeros(1), {"input_ids": ids, "attention_mask": ids}, ids[:, 0], torch.tensor([length]))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run(model, batch, needs)
    return float(counter.get_total_flops())
