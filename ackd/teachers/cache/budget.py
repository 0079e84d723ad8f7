"""Computes the size of a cache on disk, and which outputs fit into a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.errors import InputError, unknown
from ackd.types import ModelDims, OutputKey, OutputRequest

Rows = NDArray[np.int64]

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def row_sizes(field: OutputKey, shape: ModelDims, lengths: Rows) -> Rows:
    """The number of values in each example's row of a field."""
    if field.kind == "logits":
        return np.full_like(lengths, shape.classes)
    if field.kind == "cls":
        return np.full_like(lengths, shape.width)
    if field.kind == "attention":
        return shape.heads * lengths**2
    return shape.width * lengths


@dataclass(frozen=True)
class Plan:
    """The knowledge types with cached outputs."""

    types: Mapping[str, tuple[int, bool]]  # by name: bytes of the type's outputs, and whether they are cached
    fields: frozenset[OutputKey]  # all cached fields; types share common fields
    size: int  # bytes of all cached fields

    def __str__(self) -> str:
        width = max(map(len, self.types), default=0)
        lines = [
            f"  {name:<{width}}  {readable(size):>9}  {'kept' if kept else 'asked live: over the budget'}"
            for name, (size, kept) in self.types.items()
        ]
        return "\n".join([f"{readable(self.size)} to keep", *lines])


def make_plan(types: Mapping[str, OutputRequest], shape: ModelDims, lengths: Rows, *, budget: int, dtype: str) -> Plan:
    """Chooses the types that fit into a budget, smallest first; shared fields count once.

    Args:
        types: the teacher outputs of each knowledge type.
        shape: the teacher's sizes.
        lengths: tokens of each example.
        budget: size limit in bytes.
        dtype: float16, bfloat16 or float32.

    Raises:
        InputError: if no type fits, or the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise unknown("number format", dtype, DTYPES)

    def size_of(fields: frozenset[OutputKey]) -> int:
        return sum(int(row_sizes(field, shape, lengths).sum()) for field in fields) * DTYPES[dtype].itemsize

    sizes = {name: size_of(frozenset(needs.fields)) for name, needs in types.items()}
    kept: frozenset[OutputKey] = frozenset()
    for name in sorted(types, key=lambda name: sizes[name]):
        wider = kept | frozenset(types[name].fields)
        if size_of(wider) <= budget:
            kept = wider
    fits = {name: (sizes[name], frozenset(needs.fields) <= kept) for name, needs in types.items()}
    if types and not any(keep for _, keep in fits.values()):
        least = min(sizes, key=lambda name: sizes[name])
        raise InputError(
            f"a budget of {readable(budget)} holds none of the knowledge types: the smallest, {least!r}, takes "
            f"{readable(sizes[least])}; raise the budget or leave the cache away"
        )
    return Plan(fits, kept, size_of(kept))


def parse_size(text: str) -> int:
    """Parses a size in bytes: `2GB`, `500 MB`, `1.5GiB` or a plain number.

    Raises:
        InputError: if the text is no size.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20}
    units |= {"GIB": 2**30, "TIB": 2**40}
    number = text.strip().upper().rstrip("KMGTIB ")
    try:
        size = int(float(number) * units[text.strip().upper()[len(number) :].strip()])
    except (ValueError, KeyError, OverflowError):
        raise InputError(f"{text!r} is no size: write it as 2GB, 500MB or 1.5GiB") from None
    if size <= 0:
        raise InputError(f"a size must be above 0, got {text!r}")
    return size


def readable(size: float) -> str:
    """Formats a number of bytes, e.g. 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        shown = f"{size:.0f}" if unit == "B" else f"{size:.1f}"
        if float(shown) < 1000:
            return f"{shown} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
