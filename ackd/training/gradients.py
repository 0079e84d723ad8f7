"""Whether the knowledge types pull a student where the labels pull it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ackd.errors import InputError
from ackd.models import Meter, Model
from ackd.models.forward import layer_stack
from ackd.types import EMBEDDINGS, LABELS, Knowledge, OutputRequest


@dataclass(frozen=True)
class Pulls:
    """Gradients of one batch's mean losses, before weights and scales: 0-d each, on the device."""

    cosines: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # of each type's with the labels'; 0 where one of them is 0
    norms: Mapping[str, Tensor] = field(default_factory=dict)  # of each type's, and of the labels'


class Compass:
    """Compares gradients on the last layer that a type reaches: for most that is the student's last one.

        cos_k = <g_k, g_0> / (|g_k| |g_0|),  g_k = dL_k / d(parameters of that layer), g_0 that of the labels

    A type that reaches no layer, as of the embeddings, is left out.

    Args:
        model: the student's.
        meter: counts what its passes cost.

    Raises:
        InputError: if its layers cannot be told apart.

    References:
        Du et al., Adapting Auxiliary Losses Using Gradient Similarity, 2018, https://arxiv.org/abs/1812.02224
    """

    def __init__(self, model: Model, meter: Meter) -> None:
        stack = layer_stack(model)
        if stack is None:
            raise InputError(
                f"the layers of a {model.config.model_type} cannot be told apart, so nothing can be said of its "
                "gradients: leave --gradient-cosines away"
            )
        self.depth, self.meter = int(model.config.num_hidden_layers), meter
        # ALBERT's layers share the weights of groups
        groups = [stack[1][layer * len(stack[1]) // self.depth] for layer in range(self.depth)]
        self.parameters = [[p for p in one.parameters() if p.requires_grad] for one in groups]

    def reached(self, chosen: Sequence[Knowledge]) -> dict[str, int]:
        """The last layer that each type reaches, by the type's name."""
        last = {one.name: one.student_needs.last_layer for one in chosen}
        whole = {name: self.depth - 1 if layer is None else layer for name, layer in last.items()}
        return {name: layer for name, layer in whole.items() if layer != EMBEDDINGS}

    def __call__(self, chosen: Sequence[Knowledge], losses: Mapping[str, Tensor]) -> Pulls:
        """What the mean losses say, 0-d each, of the types and of the labels; their graph stays for the step."""
        reached = self.reached(chosen)
        own = {layer: self._gradient(losses[LABELS], layer) for layer in sorted({self.depth - 1, *reached.values()})}
        theirs = {name: self._gradient(losses[name], layer) for name, layer in reached.items()}
        norms = {name: torch.linalg.vector_norm(one) for name, one in theirs.items()}
        cosines = {
            name: nn.functional.cosine_similarity(one, own[reached[name]], dim=0) for name, one in theirs.items()
        }
        return Pulls(cosines, {LABELS: torch.linalg.vector_norm(own[self.depth - 1]), **norms})

    def _gradient(self, loss: Tensor, layer: int) -> Tensor:
        """In one row, with 0 for what has no part in the loss."""
        parameters = self.parameters[layer]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    def flops(self, chosen: Sequence[Knowledge], size: int, length: int) -> float:
        """FLOPs of comparing, at most: each backward pass as two forward passes of what it goes through."""
        reached = self.reached(chosen)
        through = [self._through(layer, None, size, length) for layer in {self.depth - 1, *reached.values()}]
        for one in chosen:
            if one.name in reached:
                through.append(self._through(reached[one.name], one.student_needs.last_layer, size, length))
                through.append(one.flops(size, length) / 3)  # of which two thirds are its own backward pass
        return 2 * sum(through)

    def _through(self, layer: int, last: int | None, size: int, length: int) -> float:
        """FLOPs of a forward pass from what enters `layer` to the output of the layer `last`, or to the logits."""
        end = OutputRequest(logits=True) if last is None else OutputRequest(cls=frozenset({last}))
        below = OutputRequest(cls=frozenset({layer - 1}))
        return self.meter(end).forward(size, length) - self.meter(below).forward(size, length)
