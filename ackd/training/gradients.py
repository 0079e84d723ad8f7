"""Compares the gradients of the knowledge losses with the gradient of the label loss."""

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
    """Cosines and norms of the gradients of one batch's mean losses, before weights and scales.

    Each number is a 0-d tensor on the device.
    """

    # cosine of each type's gradient with the labels' gradient; 0 if one of them is 0
    cosines: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Mapping[str, Tensor] = field(default_factory=dict)  # norm of each type's and the labels' gradient


class Compass:
    """Compares each knowledge loss's gradient with the labels' gradient, at one layer.

    The layer is the last one that the knowledge type uses: for most types the student's last layer.

        cos_k = <g_k, g_0> / (|g_k| |g_0|),  g_k = dL_k / d(parameters of that layer), g_0 that of the labels

    Types that use no layer (e.g. only the embeddings) are left out.

    Args:
        model: the student's model.
        meter: counts the FLOPs of its passes.

    Raises:
        InputError: if the model's layers cannot be found.

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
        # ALBERT's layers share weights within groups
        groups = [stack[1][layer * len(stack[1]) // self.depth] for layer in range(self.depth)]
        self.parameters = [[p for p in one.parameters() if p.requires_grad] for one in groups]

    def reached(self, chosen: Sequence[Knowledge]) -> dict[str, int]:
        """The last layer that each type uses, by the type's name."""
        last = {one.name: one.student_needs.last_layer for one in chosen}
        whole = {name: self.depth - 1 if layer is None else layer for name, layer in last.items()}
        return {name: layer for name, layer in whole.items() if layer != EMBEDDINGS}

    def __call__(self, chosen: Sequence[Knowledge], losses: Mapping[str, Tensor]) -> Pulls:
        """Computes cosines and norms from the mean losses, 0-d each; keeps their graph for the step."""
        reached = self.reached(chosen)
        own = {layer: self._gradient(losses[LABELS], layer) for layer in sorted({self.depth - 1, *reached.values()})}
        theirs = {name: self._gradient(losses[name], layer) for name, layer in reached.items()}
        norms = {name: torch.linalg.vector_norm(one) for name, one in theirs.items()}
        cosines = {
            name: nn.functional.cosine_similarity(one, own[reached[name]], dim=0) for name, one in theirs.items()
        }
        return Pulls(cosines, {LABELS: torch.linalg.vector_norm(own[self.depth - 1]), **norms})

    def _gradient(self, loss: Tensor, layer: int) -> Tensor:
        """The flattened gradient of a layer's parameters, with 0 for parameters that the loss does not depend on."""
        parameters = self.parameters[layer]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    def flops(self, chosen: Sequence[Knowledge], size: int, length: int) -> float:
        """Upper bound of the comparison's FLOPs: a backward pass counts as two forward passes of the same layers."""
        reached = self.reached(chosen)
        through = [self._through(layer, None, size, length) for layer in {self.depth - 1, *reached.values()}]
        for one in chosen:
            if one.name in reached:
                through.append(self._through(reached[one.name], one.student_needs.last_layer, size, length))
                through.append(one.flops(size, length) / 3)  # two thirds of the loss's FLOPs are its backward pass
        return 2 * sum(through)

    def _through(self, layer: int, last: int | None, size: int, length: int) -> float:
        """FLOPs of a forward pass from the input of `layer` to the output of layer `last`; None: to the logits."""
        end = OutputRequest(logits=True) if last is None else OutputRequest(cls=frozenset({last}))
        below = OutputRequest(cls=frozenset({layer - 1}))
        return self.meter(end).forward(size, length) - self.meter(below).forward(size, length)
