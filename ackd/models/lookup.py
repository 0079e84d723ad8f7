"""Embedding lookup for many students in one gather."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def look_up(weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
    """`F.embedding` for use under `torch.vmap`, where torch's own rule copies the whole weight.

    Args:
        weight: embedding matrix of each student, [V, d].
        ids: [...] int64.
        padding: a row without gradient, or None.

    Returns:
        [..., d].
    """
    found: Tensor = _Lookup.apply(weight, ids, padding)  # type: ignore[no-untyped-call]
    return found


class _Lookup(torch.autograd.Function):
    """`F.embedding` with a `torch.vmap` rule that is a single gather."""

    @staticmethod
    def forward(weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        return F.embedding(ids, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Saves nothing: under `torch.vmap`, `_Rows` computes the gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], weight: Tensor, ids: Tensor, padding: int | None) -> Any:
        """[N, V, d] and [...] or [N, ...] -> [N, ..., d]."""
        assert in_dims[0] is not None
        ids = ids[None] if in_dims[1] is None else ids.movedim(in_dims[1], 0)
        return _Rows.apply(weight.movedim(in_dims[0], 0), ids, padding), 0  # type: ignore[no-untyped-call]


class _Rows(torch.autograd.Function):
    """The rows `ids` of each student's weight, [N, V, d] and [N, ...] -> [N, ..., d].

    On a CPU the gradient is sparse, because a dense one would need a pass over the vocabulary of every student.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.shape = padding, weight.shape
        first = torch.arange(len(weight), device=ids.device) * weight.shape[1]  # each student's first row
        return F.embedding(ids + first.view(-1, *[1] * (ids.dim() - 1)), weight.flatten(0, 1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        students, rows, width = ctx.shape
        if ctx.padding is not None:
            grad = grad.masked_fill((ids == ctx.padding)[..., None], 0)
        who = torch.arange(students, device=ids.device).view(-1, *[1] * (ids.dim() - 1)).expand(grad.shape[:-1])
        where = torch.stack([who.flatten(), ids.expand(grad.shape[:-1]).flatten()])
        values = grad.reshape(-1, width)
        if grad.device.type == "cpu":
            return torch.sparse_coo_tensor(where, values, ctx.shape, check_invariants=False), None, None
        dense = grad.new_zeros(students * rows, width)
        return dense.index_put_((where[0] * rows + where[1],), values, accumulate=True).view(ctx.shape), None, None
