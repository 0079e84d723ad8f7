"""Reads the outputs of the next batches from a cache in a thread, while the current step computes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from ackd.teachers.cache.budget import Rows
from ackd.teachers.cache.device_rows import DeviceRows
from ackd.teachers.cache.store import Cache
from ackd.types import OutputKey

Key: TypeAlias = tuple[bytes, int]  # rows and padded length
Read: TypeAlias = Mapping[OutputKey, tuple[Rows, Tensor]]  # the rows that were not on the device, and their values


class ReadAhead:
    """Reads the outputs of announced batches in a thread.

    A batch is read only if the previous batches were requested as announced. So reading ahead stops if requests differ
    from announcements, for example because examples are selected within a batch. The thread ends with this object, or
    with the process after the current read. Its errors are raised where the outputs are used.

    Args:
        cache: the cache.
        device: device of the batches; for a GPU, outputs are read into pinned memory.
    """

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.cache, self.device = cache, device
        self.near: DeviceRows | None = None  # rows on the device, which need not be read
        self._announced: dict[Key, Future[Read] | None] = {}  # None: not read ahead
        self._fields: frozenset[OutputKey] = frozenset()  # fields of the last request; empty if it was not announced
        self._thread: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def announce(self, batches: Sequence[tuple[Rows, int]]) -> None:
        """Announces the rows and padded lengths of this batch and the next ones, in place of earlier announcements."""
        known, self._announced = self._announced, {}
        if os.getpid() != self._owner:  # a forked process has no thread
            known, self._thread, self._owner = {}, None, os.getpid()
        keys = [(rows.tobytes(), length) for rows, length in batches]
        if known.keys() - keys:  # an announced batch was not requested
            self._fields = frozenset()
        for (rows, length), key in zip(batches, keys, strict=True):
            self._announced[key] = known.get(key) or (self._begun(rows, length) if self._fields else None)

    def asked(self, rows: Rows, length: int, fields: frozenset[OutputKey]) -> Future[Read] | None:
        """Registers a request; returns the outputs that the thread reads for it, or None."""
        key = rows.tobytes(), length
        self._fields = fields if key in self._announced else frozenset()
        return self._announced.pop(key, None)

    def _begun(self, rows: Rows, length: int) -> Future[Read]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "ackd-cache")
        return self._thread.submit(_read, self.cache, rows, length, self._fields, self.device, self.near)


def _read(
    cache: Cache,
    rows: Rows,
    length: int,
    fields: frozenset[OutputKey],
    device: torch.device,
    near: DeviceRows | None,
) -> Read:
    """Reads the fields that are complete in all rows, except for rows that are on the device."""
    gpu, found = device.type == "cuda", {}
    with torch.cuda.device(device) if gpu else nullcontext():
        for field in fields:
            if cache.has((field,), rows).all():
                rest = rows if near is None else rows[~near.held(field, rows)]
                if len(rest):
                    found[field] = rest, cache.read(field, rest, length, pinned=gpu)
    return found
