"""A teacher's outputs on disk: one ragged row per example, shared between processes.

A cache is a folder of entries, one for each combination of teacher, data and dtype:

    CACHE/sst2-6f3a91c2d4e50b18/
        manifest.json           identity of the entry
        hidden-3.rows           the rows of all examples one after the other, without padding
        hidden-3.sums           a checksum for each row, 0 if the row is not written
        prices-*.json           measured times (see `ackd.teachers.cache.measuring`)
        lock                    empty; a process that writes a row locks the byte with the row's number

A row's offset follows from the lengths alone. So several processes can write rows at the same time, in any order, while
others read. A row is valid once its checksum is written, and does not change afterwards. A process compares the
checksum when it first reads the row; a damaged row is computed again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.errors import InputError, not_finite
from ackd.teachers.cache.budget import DTYPES, Rows, row_sizes
from ackd.teachers.cache.cached_field import CachedField
from ackd.teachers.cache.entry import CacheError, Entry, Examples
from ackd.types import ModelDims, OutputKey

logger = logging.getLogger("ackd")

FORMAT = 1
__all__ = ["FORMAT", "Cache", "CacheError", "Examples"]


class Cache(Entry):
    """One entry: a teacher's outputs for some examples.

    Args:
        folder: the cache's folder; the entry gets a subfolder.
        name: readable part of the subfolder's name, before the key.
        teacher: fingerprint of the teacher.
        shape: sizes of the teacher.
        examples: the examples.
        fields: the cached tensors.
        dtype: float16, bfloat16 or float32.

    Raises:
        InputError: if the entry belongs to something else, is damaged or cannot be created, or the disk is too small.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str,
        teacher: str,
        shape: ModelDims,
        examples: Examples,
        fields: Iterable[OutputKey],
        dtype: str = "float16",
    ) -> None:
        identity = {"format": FORMAT, "teacher": teacher, "data": examples.fingerprint, "dtype": dtype}
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        super().__init__(Path(folder) / f"{name}-{key}", shape, examples, DTYPES[dtype])
        self.fields = frozenset[OutputKey]()
        self.damaged = 0  # number of rows with a wrong checksum
        self.readable, self._writable = True, True  # False after a fault
        self._columns: dict[OutputKey, CachedField] = {}
        self._opening = threading.Lock()
        self._lock: int | None = None
        self._owner = os.getpid()
        try:
            with self.refusing():
                self.open({**identity, "examples": len(examples.ids), "shape": asdict(shape)})
                self.widen(fields)
        except InputError:
            self.close()
            raise

    @property
    def writing(self) -> bool:
        """Whether this process may write: False if the folder is read-only, after a fault, or in a forked process."""
        if not self._writable or os.getpid() != self._owner:  # a forked process would share its parent's locks
            return False
        if self._lock is None and os.access(self.folder, os.W_OK):
            try:
                self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            except OSError:  # the file of another user, in a shared folder
                return False
        return self._lock is not None

    def has(self, fields: Iterable[OutputKey], rows: Rows) -> NDArray[np.bool_]:
        """[R], True for rows that are complete and valid in all fields.

        Raises:
            CacheError: if the files cannot be read.
        """
        valid = rows >= 0
        for field in fields:
            with self.refusing():
                column = self._column(field)
                if column is None:
                    return np.zeros_like(valid)
                valid[valid], damaged = column.sound(rows[valid])
            if damaged and not self.damaged:
                logger.warning("the cache %s has damaged rows: they are computed again", self.folder)
            self.damaged += damaged
        return valid

    def read(self, field: OutputKey, rows: Rows, length: int, *, pinned: bool = False) -> Tensor:
        """Reads rows of a field, padded to `length` with finite numbers, in the cache's dtype.

        Args:
            field: the field.
            rows: rows for which `has` is True.
            length: padded length of the batch.
            pinned: whether to read into pinned memory, for asynchronous copies to a GPU.

        Raises:
            CacheError: if the file cannot be read.
        """
        lengths, whole = self.examples.lengths[rows].tolist(), field.kind in ("logits", "cls")
        # padding is always finite: zeros around attention scores, elsewhere the last token again
        new = torch.zeros if field.kind == "attention" else torch.empty
        place = new(len(rows), *self._shape(field, length), dtype=self.dtype, pin_memory=pinned)
        numbers = place.view(torch.int16 if self.dtype.itemsize == 2 else torch.int32).numpy()  # numpy has no bfloat16
        with self.refusing():
            column = self._column(field)
            if column is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            for row, n, target in zip(rows.tolist(), lengths, numbers, strict=True):
                if whole or n == length:
                    column.read(row, target)
                elif field.kind == "attention":
                    unpadded = np.empty((len(target), n, n), target.dtype)
                    column.read(row, unpadded)
                    target[:, :n, :n] = unpadded
                else:
                    column.read(row, target[:n])
                    target[n:] = target[n - 1]
        return place

    def _shape(self, field: OutputKey, length: int) -> tuple[int, ...]:
        """The shape of an example's output, padded to `length`."""
        width, heads = self.shape.width, self.shape.heads
        known = {"logits": (self.shape.classes,), "cls": (width,), "attention": (heads, length, length)}
        return known.get(field.kind, (length, width))

    def write(self, rows: Rows, answers: Mapping[OutputKey, Tensor]) -> int:
        """Writes the rows that are not cached yet; returns the number of written bytes.

        Rows that another process is writing are skipped.

        Args:
            rows: the row of each example; -1 (unknown examples) is skipped.
            answers: for each field a padded batch on the host, [B, ...] in the cache's dtype.

        Raises:
            InputError: if an output is not finite (no row is written).
            CacheError: if the disk is full (earlier rows stay valid), or cannot be written.
        """
        if (rows < 0).any():
            known = rows >= 0
            return self.write(rows[known], {field: batch[torch.from_numpy(known)] for field, batch in answers.items()})
        self.check(self.examples.ids[rows], self.examples.lengths[rows], answers)
        if any(self._column(field) is None for field in answers):
            self.reserve(answers)
        with self.refusing():
            missing = np.flatnonzero(~self.has(answers, rows)).tolist()
            return sum(self._write(int(rows[place]), place, answers) for place in missing)

    def _write(self, row: int, place: int, answers: Mapping[OutputKey, Tensor]) -> int:
        """Writes the missing fields of a row, unless another process is writing it; returns the written bytes."""
        written = 0
        with self._holding(row) as locked:
            for field, batch in answers.items() if locked else ():
                column = self._column(field)
                assert column is not None
                if self.has((field,), np.array([row])).all():  # another process was faster
                    continue
                valid = _unpadded(field, batch[place], int(self.examples.lengths[row]))
                data = valid.contiguous().view(-1).view(torch.uint8).numpy().data
                column.write(row, data)
                written += len(data)
        return written

    @contextmanager
    def _holding(self, row: int) -> Iterator[bool]:
        """Locks a row unless it is locked, and yields whether it did; the kernel releases a dead process's locks."""
        if not self.writing:
            raise ValueError(f"this process cannot write {self.folder}")
        assert self._lock is not None
        try:
            fcntl.fcntl(self._lock, fcntl.F_OFD_SETLK, _range(fcntl.F_WRLCK, row))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            yield False
            return
        try:
            yield True
        finally:
            fcntl.fcntl(self._lock, fcntl.F_OFD_SETLK, _range(fcntl.F_UNLCK, row))

    def check(self, ids: Rows, lengths: Rows, answers: Mapping[OutputKey, Tensor]) -> None:
        """Checks that outputs in the cache's dtype are finite.

        Raises:
            InputError: if any value outside the padding is not finite.
        """
        for field, batch in answers.items():
            if torch.isfinite(batch).all():
                continue
            rows = [_unpadded(field, row, n) for row, n in zip(batch, lengths.tolist(), strict=True)]
            bad = [place for place, row in enumerate(rows) if not torch.isfinite(row).all()]
            if bad:
                nan = any(rows[place].isnan().any() for place in bad)
                raise InputError(
                    not_finite(field.kind, ids[bad].tolist(), overflow=not nan and self.dtype == torch.float16)
                )

    def widen(self, fields: Iterable[OutputKey]) -> None:
        """Adds fields to the cache.

        Raises:
            InputError: if the disk is too small for them.
        """
        wider = self.fields | frozenset(fields)
        if self.writing:
            self.reserve(wider)
        self.fields = wider

    def give_up(self, fault: CacheError, *, reading: bool) -> None:
        """Stops writing after a fault, and with `reading` also reading; logs one warning."""
        if self.readable and self._writable:
            logger.warning("%s. The run continues, and computes missing outputs", fault)
        self._writable, self.readable = False, self.readable and not reading

    def close(self) -> None:
        """Closes the files."""
        for column in self._columns.values():
            column.close()
        self._columns.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _column(self, field: OutputKey) -> CachedField | None:
        with self._opening:
            if field not in self._columns:
                if not self.complete(field):
                    return None
                sizes = row_sizes(field, self.shape, self.examples.lengths)
                (rows, _), (sums, _) = self.files(field)
                self._columns[field] = CachedField(rows, sums, sizes, self.dtype.itemsize)
            return self._columns[field]


def _range(kind: int, row: int) -> bytes:
    """A `struct flock` for one byte of a file."""
    return struct.pack("@hhqqi0q", kind, os.SEEK_SET, row, 1, 0)


def _unpadded(field: OutputKey, value: Tensor, length: int) -> Tensor:
    """One example's output without padding."""
    if field.kind in ("logits", "cls"):
        return value
    return value[:, :length, :length] if field.kind == "attention" else value[:length]
