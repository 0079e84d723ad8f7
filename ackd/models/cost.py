"""What a model's passes cost, counted."""

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
POSITIONS = 32  # more than the longest of them, for families that begin to count above 0
SMALL = 1_000_000  # weights: up to here, arithmetic with zeros takes less time than shapes without values
_KNOWN: dict[tuple[type[Model], str, str], dict[int | None, Cost]] = defaultdict(dict)  # of models that are built alike


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
    """Counts what a model's answers cost: its matrix products at three lengths, which fix the cost at every length.

    What is counted is a twin without weights, so counting takes neither memory nor, as a rule, arithmetic: a family
    that looks at its values cannot run without any, and gets zeros. So do small models, which are counted faster with
    them. Models that are built alike are counted once a process.

    Args:
        model: whose sizes count.
    """

    def __init__(self, model: Model) -> None:
        self._kind, self._config = type(model), copy.deepcopy(model.config)
        built = self._kind, str(model.config._attn_implementation), model.config.to_json_string(use_diff=False)
        self._known = _KNOWN[built]  # by the last layer that runs

    @cached_property
    def _twin(self) -> Model:
        config = copy.deepcopy(self._config)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # of products that torch's counter knows
        if 0 < (getattr(config, "max_position_embeddings", None) or 0) < POSITIONS:
            config.max_position_embeddings = POSITIONS  # they cost nothing, and what is counted needs them
        with torch.device("meta"):
            twin = self._kind(config).eval()
        needs = OutputRequest(logits=True)
        if sum(weight.numel() for weight in twin.parameters()) <= SMALL:
            return twin._apply(lambda weight: torch.zeros(weight.shape, dtype=weight.dtype))
        try:
            _count(twin, needs, LENGTHS[0])
        except Exception:  # each family's way of looking at values that are not there fails in its own
            twin._apply(lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))
        return twin

    def __call__(self, needs: OutputRequest) -> Cost:
        """The cost of a forward pass that gives `needs`: of all up to the last layer needed, for keeping is free."""
        last = needs.last_layer
        if last not in self._known:
            powers = np.array([[1.0, n, n**2] for n in LENGTHS])
            far = OutputRequest(logits=True) if last is None else OutputRequest(cls=frozenset({last}))
            exact = np.linalg.solve(powers, [_count(self._twin, far, length) for length in LENGTHS])
            self._known[last] = Cost(*(max(float(round(value)), 0.0) for value in exact))
        return self._known[last]


def _count(model: Model, needs: OutputRequest, length: int) -> float:
    """FLOPs of an answer about one text."""
    ids = torch.ones(1, length, dtype=torch.int64, device=model.device)
    batch = Batch(torch.zeros(1), {"input_ids": ids, "attention_mask": ids}, ids[:, 0], torch.tensor([length]))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run(model, batch, needs)
    return float(counter.get_total_flops())
