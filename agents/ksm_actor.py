"""The actor of `ackd.agents.ksm`: a network over two parts of an observation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ackd.errors import InputError

PARTS: Mapping[str, tuple[str, str]] = {"cls": ("student_cls", "teacher_cls"), "signals": ("globals", "knowledge")}
Batch = Mapping[str, Tensor]


class KsmActor(nn.Module):
    """A network from two parts of an observation to a weight for each knowledge type.

        s = [v_1(part_1), v_2(part_2)]    w = sigmoid(mu(s)), 0 where masked

    v_1 and v_2 are two-layer perceptrons, mu is a three-layer one. Unlike a `SetNetwork` it identifies a type by its
    position.

    Args:
        left: numbers in the first part, `student_cls` or `globals`.
        right: numbers in the second part, `teacher_cls` or `knowledge`.
        types: entries of the action.
        feature: width of each v.
        width: hidden width of mu.
        cls: 1 to read the [CLS] vectors, 0 to read the signals.
    """

    kind: ClassVar[str] = "ksm"

    def __init__(self, left: int, right: int, types: int, feature: int, width: int, cls: int) -> None:
        super().__init__()
        self.sizes = {"left": left, "right": right, "types": types, "feature": feature, "width": width, "cls": cls}
        self.parts = PARTS["cls" if cls else "signals"]
        self.encoders = nn.ModuleList(perceptron(size, feature, feature) for size in (left, right))
        self.mu = perceptron(2 * feature, width, width, types)
        last = cast(nn.Linear, self.mu[-1])
        nn.init.uniform_(last.weight, -3e-3, 3e-3)  # every weight starts near 1/2
        nn.init.zeros_(last.bias)

    def state(self, parts: Sequence[Tensor]) -> Tensor:
        """[B, 2 * feature] from both parts."""
        pairs = zip(self.encoders, parts, strict=True)
        return torch.cat([encoder(part.float().flatten(1)).relu() for encoder, part in pairs], dim=1)

    def act(self, batch: Batch, deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Weights [B, K] from 0 to 1, 0 where masked; they are never random."""
        sizes = {name: batch[name].shape[1] if name in batch else 0 for name in (*self.parts, "mask")}
        reads = (self.sizes["left"], self.sizes["right"], self.sizes["types"])
        if tuple(sizes.values()) != reads:
            shown = ", ".join(f"{size} of {name}" for name, size in sizes.items())
            raise InputError(
                f"the policy reads {reads[0]} and {reads[1]} numbers and {reads[2]} types, and got {shown}"
            )
        logits = self.mu(self.state([batch[name] for name in self.parts]))
        return cast(Tensor, logits.sigmoid()).masked_fill(batch["mask"] == 0, 0.0)

    def flops(self, types: int) -> float:
        """Floating-point operations of one forward pass for one observation: two for each weight."""
        return 2.0 * sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))


class KsmBits(KsmActor):
    """The hard form: a type is chosen if its weight exceeds a threshold."""

    kind: ClassVar[str] = "ksm-bits"
    threshold: Tensor

    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        self.register_buffer("threshold", torch.tensor(0.5))

    def act(self, batch: Batch, deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Bits [B, K], 0 where masked."""
        return (super().act(batch, deterministic, generator) > self.threshold).float()


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers)
