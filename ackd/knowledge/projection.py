"""Projections from the student's width to the teacher's, if they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ackd.knowledge.masked import wide
from ackd.types import ModelDims


def projection(student: ModelDims, teacher: ModelDims, *, always: bool = False) -> nn.Module:
    """A linear map from the student's width to the teacher's; without `always`, the identity if they are equal."""
    equal = student.width == teacher.width and not always
    return nn.Identity() if equal else nn.Linear(student.width, teacher.width)


def projected(by: nn.Module, states: Mapping[int, Tensor], layers: Iterable[int]) -> dict[int, Tensor]:
    """The states of these layers at the teacher's width, each layer once and all in one matrix product."""
    once = tuple(dict.fromkeys(layers))
    if isinstance(by, nn.Identity):
        return {layer: wide(states[layer]) for layer in once}
    together = wide(by(wide(torch.stack([states[layer] for layer in once]))))
    return dict(zip(once, together.unbind(), strict=True))


def projection_flops(by: nn.Module, vectors: int) -> float:
    """FLOPs of projecting this number of vectors, backward included."""
    return 3 * 2.0 * vectors * by.in_features * by.out_features if isinstance(by, nn.Linear) else 0.0
