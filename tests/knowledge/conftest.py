"""Random outputs of models that never were, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ackd.types import EMBEDDINGS, Batch, ModelDims, OutputKey, Outputs


@pytest.fixture(scope="session")
def small() -> ModelDims:
    """The sizes of a student."""
    return ModelDims(layers=2, width=6, heads=3, classes=3, vocabulary=50)


@pytest.fixture(scope="session")
def large() -> ModelDims:
    """The sizes of a teacher: deeper and wider, with as many heads."""
    return ModelDims(layers=4, width=9, heads=3, classes=3, vocabulary=50)


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., Batch]:
    """A batch of examples of the given lengths, padded to `longest`."""

    def make(lengths: list[int], longest: int) -> Batch:
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        return Batch(torch.arange(len(lengths)), {"attention_mask": mask}, torch.zeros(len(lengths)))

    return make


@pytest.fixture(scope="session")
def outputs_of() -> Callable[..., Outputs]:
    """Every output that a model of this shape could give, at random."""

    def make(shape: ModelDims, size: int, length: int, seed: int) -> Outputs:
        generator = torch.Generator().manual_seed(seed)

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator, dtype=torch.float64)

        tensors = {OutputKey("logits"): draw(size, shape.classes)}
        for layer in range(EMBEDDINGS, shape.layers):
            tensors[OutputKey("cls", layer)] = draw(size, shape.width)
            for kind in ("hidden", "queries", "keys", "values"):
                tensors[OutputKey(kind, layer)] = draw(size, length, shape.width)
            tensors[OutputKey("attention", layer)] = draw(size, shape.heads, length, length)
        return Outputs.of(tensors)

    return make
