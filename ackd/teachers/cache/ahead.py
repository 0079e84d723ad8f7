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
    """Outputs that a thread reads for batches that are announced.

    A batch is read only if the previous batches were asked for as announced, so nothing is read in vain for long where
    examples are picked within a batch or nothing is asked. The thread ends with this object, or with the process after
    the read under way. Its errors are raised where the outputs are taken.

    Args:
        cache: the cache.
        device: of the batches; on a GPU outputs are read into pinned memory.
    """

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.cache, self.device = cache, device
        self.near: DeviceRows | None = None  # rows that need not be read
        self._announced: dict[Key, Future[Read] | None] = {}  # None: is not read
        self._fields: frozenset[OutputKey] = frozenset()  # of the last batch; empty if it was not announced
        self._thread: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def announce(self, batches: Sequence[tuple[Rows, int]]) -> None:
        """Announces the rows and padded lengths of this batch and the next ones; others are no longer read."""
        known, self._announced = self._announced, {}
        if os.getpid() != self._owner:  # a forked process has no thread
            known, self._thread, self._owner = {}, None, os.getpid()
        keys = [(rows.tobytes(), length) for rows, length in batches]
        if known.keys() - keys:  # a batch that was not asked for
            self._fields = frozenset()
        for (rows, length), key in zip(batches, keys, strict=True):
            self._announced[key] = known.get(key) or (self._begun(rows, length) if self._fields else None)

    def asked(self, rows: Rows, length: int, fields: frozenset[OutputKey]) -> Future[Read] | None:
        """What is being read of a batch that is asked for now, if anything."""
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
    """The fields that are complete in all rows, without the rows that are on the device."""
    gpu, found = device.type == "cuda", {}
    with torch.cuda.device(device) if gpu else nullcontext():
        for field in fields:
            if cache.has((field,), rows).all():
                rest = rows if near is None else rows[~near.held(field, rows)]
                if len(rest):
                    found[field] = rest, cache.read(field, rest, length, pinned=gpu)
    return found
