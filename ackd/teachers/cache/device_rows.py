"""Keeps rows of a cache in the memory of a device, as many as fit."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.errors import InputError
from ackd.teachers.cache.budget import Rows, row_sizes
from ackd.teachers.cache.store import Cache
from ackd.types import ModelDims, OutputKey

_KNOWN: WeakKeyDictionary[Cache, dict[torch.device, DeviceRows]] = WeakKeyDictionary()


@dataclass
class _Field:
    """The rows of one field, one after the other, each without padding."""

    values: Tensor  # on the device
    sizes: Rows  # number of values in each row
    starts: Rows  # index of the first value of each row; -1 if the row is not here
    used: int = 0  # number of values in use


class DeviceRows:
    """Rows of a cache in a device's memory; they equal the rows on disk bit for bit.

    The first read of a field reserves memory for all its rows, or the memory that is left. When it is full, further
    rows are not kept. Rows are never replaced, because every row is needed once per epoch.

    Args:
        shape: sizes of the teacher.
        lengths: tokens of each example.
        dtype: dtype of the values.
        device: the device.
        memory: size limit in bytes.
    """

    def __init__(self, shape: ModelDims, lengths: Rows, dtype: torch.dtype, device: torch.device, memory: int) -> None:
        self.shape, self.lengths, self.dtype, self.device, self.left = shape, lengths, dtype, device, memory
        self._fields: dict[OutputKey, _Field] = {}

    def held(self, field: OutputKey, rows: Rows) -> NDArray[np.bool_]:
        """[R], True for rows that are here."""
        known = self._fields.get(field)
        return known.starts[rows] >= 0 if known is not None else np.zeros(len(rows), np.bool_)

    def keep(self, field: OutputKey, rows: Rows, padded: Tensor) -> None:
        """Keeps the rows that fit, from [R, ...] on the device in the cache's dtype."""
        known = self._fields.get(field) or self._place(field)
        for row, value in zip(rows.tolist(), padded, strict=True):
            size, n = int(known.sizes[row]), int(self.lengths[row])
            if known.starts[row] < 0 and known.used + size <= len(known.values):
                valid = value[:, :n, :n] if field.kind == "attention" else value[:n] if value.dim() > 1 else value
                known.values[known.used : known.used + size].view(valid.shape).copy_(valid)
                known.starts[row], known.used = known.used, known.used + size

    def read(self, field: OutputKey, rows: Rows, length: int) -> Tensor:
        """Returns rows padded to `length` like `Cache.read`, without waiting for the device; all must be here."""
        known, width = self._fields[field], self.shape.width
        starts, lengths = known.starts[rows], self.lengths[rows]
        if field.kind in ("logits", "cls"):
            size = int(known.sizes[rows[0]])
            whole = len(known.values) // size * size
            return known.values[:whole].view(-1, size).index_select(0, self.sent(starts // size))
        if field.kind == "attention":
            return self._scores(known.values, self.sent(starts), self.sent(lengths), length)
        tokens = np.minimum(np.arange(length), lengths[:, None] - 1) + (starts // width)[:, None]
        whole = len(known.values) // width * width
        chosen = known.values[:whole].view(-1, width).index_select(0, self.sent(tokens.reshape(-1)))
        return chosen.view(len(rows), length, width)

    def _scores(self, values: Tensor, starts: Tensor, lengths: Tensor, length: int) -> Tensor:
        """[R, A, n, n] attention scores, with zeros at padding."""
        places = torch.arange(length, device=self.device)
        n, heads = lengths.view(-1, 1, 1, 1), torch.arange(self.shape.heads, device=self.device).view(1, -1, 1, 1)
        valid = (places[:, None] < n) & (places < n)
        indices = starts.view(-1, 1, 1, 1) + (heads * n + places[:, None]) * n + places
        return values.take(indices.masked_fill_(~valid, 0)).masked_fill_(~valid, 0)

    def _place(self, field: OutputKey) -> _Field:
        sizes = row_sizes(field, self.shape, self.lengths)
        count = min(int(sizes.sum()), self.left // self.dtype.itemsize)
        try:
            values = torch.empty(count, dtype=self.dtype, device=self.device)
        except torch.OutOfMemoryError:  # the memory was free when it was measured
            count, values = 0, torch.empty(0, dtype=self.dtype, device=self.device)
        self.left -= count * self.dtype.itemsize
        known = self._fields[field] = _Field(values, sizes, np.full(len(sizes), -1))
        return known

    def sent(self, numbers: Rows) -> Tensor:
        """Copies numbers to the device without waiting for it."""
        value = torch.from_numpy(numbers)
        return (value.pin_memory() if self.device.type == "cuda" else value).to(self.device, non_blocking=True)


def device_rows(cache: Cache, device: torch.device, share: float) -> DeviceRows:
    """The rows of a cache on a device, within a share of the memory that was free there at first."""
    known = _KNOWN.setdefault(cache, {})
    if device not in known:
        examples, memory = cache.examples, int(share * free_memory(device))
        known[device] = DeviceRows(cache.shape, examples.lengths, cache.dtype, device, memory)
    return known[device]


def free_memory(device: torch.device) -> int:
    """Bytes of free memory on a device; 0 on a CPU, where the system keeps recently read files in memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def check_share(share: float) -> None:
    """Checks a share of a device's free memory.

    Raises:
        InputError: if it is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of the device's memory for a cache must be above 0 and at most 1, got {share}")
