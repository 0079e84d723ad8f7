"""A teacher's answers on disk: memory-mapped, one ragged row per example, shared by everybody who asks the same.

A cache is a folder of entries, one for each teacher, data and number format:

    CACHE/sst2-6f3a91c2d4e50b18/
        manifest.json           what the entry belongs to
        hidden-3.rows           the rows of all examples one after the other, each at its true length
        hidden-3.sums           a checksum for each row, 0 for one that is not written
        lock                    empty; whoever writes a row holds the byte of its number meanwhile

A row's place follows from the lengths alone, so rows are written in any order, by any number of processes at a time,
and read by everybody while that goes on. A row counts from the moment that its checksum stands, and stays as it is from
then on; the checksum is compared with the row when a process first reads it, so a torn or damaged row is asked again
instead of trained on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd.errors import InputError, not_finite
from ackd.files.schema import Object, read
from ackd.teachers.cache.budget import DTYPES, Rows, readable, row_sizes
from ackd.teachers.cache.cached_field import CachedField
from ackd.types import ModelDims, OutputKey

logger = logging.getLogger("ackd")

FORMAT = 1


@dataclass(frozen=True)
class Examples:
    """Which examples an entry holds: their ids, and how many tokens each has."""

    ids: Rows
    lengths: Rows
    fingerprint: str  # of all that the teacher sees of them

    def indices(self, ids: Rows) -> Rows:
        """The row of each id; -1 where there is none."""
        found = self._order[np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self.ids) - 1)]
        return np.where(self.ids[found] == ids, found, -1)

    @cached_property
    def _order(self) -> Rows:
        return np.argsort(self.ids, kind="stable")


class Cache:
    """One entry: a teacher's answers for some examples.

    Args:
        folder: the cache; the entry's own folder is made in it.
        name: what the entry is called, before the key; for people.
        teacher: fingerprint of the teacher.
        shape: of the teacher.
        examples: what it can be asked about.
        fields: the tensors that are kept.
        dtype: float16, bfloat16 or float32.

    Raises:
        InputError: if the entry belongs to something else or is damaged, if there is none and it cannot be made, or if
            the disk is too small.
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
        self.shape, self.examples, self.fields = shape, examples, frozenset[OutputKey]()
        self.dtype = DTYPES[dtype]
        self.damaged = 0  # rows that did not fit their checksum
        identity = {"format": FORMAT, "teacher": teacher, "data": examples.fingerprint, "dtype": dtype}
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self.folder = Path(folder) / f"{name}-{key}"
        self._columns: dict[OutputKey, CachedField] = {}
        self._lock: int | None = None
        self._owner = os.getpid()
        try:
            with self._refusing():
                self._open({**identity, "examples": len(examples.ids), "shape": asdict(shape)}, frozenset(fields))
        except InputError:
            self.close()
            raise

    @property
    def writing(self) -> bool:
        """Whether this process may write: not where the folder is read-only, and not in a fork."""
        if os.getpid() != self._owner:  # a fork would share its parent's locks without knowing it
            return False
        if self._lock is None and os.access(self.folder, os.W_OK):
            try:
                self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            except OSError:  # somebody else's, in a folder of many
                return False
        return self._lock is not None

    def has(self, fields: Iterable[OutputKey], rows: Rows) -> NDArray[np.bool_]:
        """Which of the rows can be read whole, for all of the fields."""
        there = rows >= 0
        for field in fields:
            column = self._column(field)
            if column is None:
                return np.zeros_like(there)
            there[there], damaged = column.sound(rows[there])
            if damaged and not self.damaged:
                logger.warning("the cache %s has damaged rows: they are asked again", self.folder)
            self.damaged += damaged
        return there

    def read(self, field: OutputKey, rows: Rows, length: int, *, pinned: bool = False) -> Tensor:
        """Some rows of a field that `has` found, padded to `length` with finite numbers, in the cache's dtype.

        Args:
            field: what of the answers.
            rows: of the examples.
            length: of the batch.
            pinned: read into memory that a GPU takes it from without holding up the host.
        """
        column = self._column(field)
        assert column is not None
        flat = column.rows
        lengths = self.examples.lengths[rows]
        if field.kind == "attention":
            heads = self.shape.heads
            padded = torch.zeros(len(rows), heads, length, length, dtype=flat.dtype, pin_memory=pinned)
            for row, start, n in zip(padded, column.starts[rows].tolist(), lengths.tolist(), strict=True):
                row[:, :n, :n] = flat[start : start + heads * n * n].view(heads, n, n)
            return padded
        if field.kind in ("logits", "cls"):
            return _chosen(flat.view(len(self.examples.ids), -1), rows, pinned)
        # what lies behind an example's last token repeats it: always finite, and no place for zeros has to be made
        width = self.shape.width
        tokens = np.minimum(np.arange(length), lengths[:, None] - 1) + (column.starts[rows] // width)[:, None]
        return _chosen(flat.view(-1, width), tokens.reshape(-1), pinned).view(len(rows), length, width)

    def write(self, rows: Rows, answers: Mapping[OutputKey, Tensor]) -> int:
        """Writes those rows that are not there yet, and says how many bytes that were.

        What another process writes at this moment is left to it.

        Args:
            rows: -1 where there is none, which is left out.
            answers: for each field a padded batch on the host, [B, ...] in the cache's dtype.

        Raises:
            InputError: if an answer is not finite, then none is written; or the disk is full, then what was written
                before stays valid.
        """
        if (rows < 0).any():
            known = rows >= 0
            return self.write(rows[known], {field: batch[torch.from_numpy(known)] for field, batch in answers.items()})
        self.check(self.examples.ids[rows], self.examples.lengths[rows], answers)
        if any(self._column(field) is None for field in answers):
            self._reserve(answers)
        with self._refusing():
            missing = np.flatnonzero(~self.has(answers, rows)).tolist()
            return sum(self._write(int(rows[place]), place, answers) for place in missing)

    def _write(self, row: int, place: int, answers: Mapping[OutputKey, Tensor]) -> int:
        """Writes what is missing of a row, unless another process does; the bytes that it took."""
        written = 0
        with self._holding(row) as mine:
            for field, batch in answers.items() if mine else ():
                column = self._column(field)
                assert column is not None
                if self.has((field,), np.array([row])).all():  # another one has been faster
                    continue
                valid = _unpadded(field, batch[place], int(self.examples.lengths[row]))
                data = valid.contiguous().view(-1).view(torch.uint8).numpy().data
                column.write(row, data)
                written += len(data)
        return written

    @contextmanager
    def _holding(self, row: int) -> Iterator[bool]:
        """Locks a row, if nobody has; a process that dies lets go of it."""
        if not self.writing:
            raise ValueError(f"{self.folder} is not written from here")
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
        """Looks whether answers in the cache's dtype are numbers.

        Raises:
            InputError: if any is not, padding apart.
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
        """Keeps these as well.

        Raises:
            InputError: if the disk cannot hold them.
        """
        wider = self.fields | frozenset(fields)
        if self.writing:
            self._reserve(wider)
        self.fields = wider

    def close(self) -> None:
        """Closes the files."""
        for column in self._columns.values():
            column.close()
        self._columns.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self, manifest: dict[str, Any], fields: frozenset[OutputKey]) -> None:
        path = self.folder / "manifest.json"
        if not path.exists():
            self._make(path, manifest)
        found = read(path, Object, "delete that folder")
        for name, value in manifest.items():
            if found.get(name) != value:
                raise InputError(
                    f"the cache entry {self.folder} belongs to another {name}: delete that folder, or choose another"
                )
        self.widen(fields)

    def _make(self, path: Path, manifest: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        if not os.access(self.folder, os.W_OK):
            raise InputError(
                f"the cache folder {self.folder.parent} is read-only and holds nothing about this teacher and this "
                "data: fill it with `ackd cache` where it can be written, or leave the cache away"
            )
        descriptor, temporary = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)  # others that make it at this moment write the same

    def _reserve(self, fields: Iterable[OutputKey]) -> None:
        """Makes the files of fields that have none yet, if the disk can hold them."""
        new = [field for field in fields if not self._complete(field)]
        needed, free = sum(self._bytes(field) for field in new), shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"the cache would take {readable(needed)}, and the disk of {self.folder.parent} has {readable(free)} "
                "free: give a smaller budget, or another folder"
            )
        with self._refusing():
            for field in new:
                for path, size in self._files(field):
                    with path.open("ab") as file:
                        file.truncate(size)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Says in a sentence what the disk refuses."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise InputError(
                    f"the cache {self.folder} cannot be used: {error.strerror} (name a folder that can be written)"
                ) from error
            raise InputError(
                f"the disk is full: the cache {self.folder} stays valid with what it holds; free some space, or give a "
                "smaller budget, and run again: it goes on from there"
            ) from error

    def _files(self, field: OutputKey) -> tuple[tuple[Path, int], tuple[Path, int]]:
        """A field's rows and their checksums, with their sizes."""
        stem = self.folder / f"{field.kind}-{field.layer}"
        return (
            (stem.with_suffix(".rows"), self._bytes(field)),
            (stem.with_suffix(".sums"), 4 * len(self.examples.ids)),
        )

    def _complete(self, field: OutputKey) -> bool:
        return all(path.exists() and path.stat().st_size == size for path, size in self._files(field))

    def _bytes(self, field: OutputKey) -> int:
        return int(row_sizes(field, self.shape, self.examples.lengths).sum()) * self.dtype.itemsize

    def _column(self, field: OutputKey) -> CachedField | None:
        if field not in self._columns:
            if not self._complete(field):
                return None
            sizes = row_sizes(field, self.shape, self.examples.lengths)
            (rows, _), (sums, _) = self._files(field)
            self._columns[field] = CachedField(rows, sums, sizes, self.dtype)
        return self._columns[field]


def _chosen(flat: Tensor, rows: Rows, pinned: bool) -> Tensor:
    """Some rows of a matrix, copied once."""
    place = torch.empty(len(rows), flat.shape[1], dtype=flat.dtype, pin_memory=pinned)
    return torch.index_select(flat, 0, torch.from_numpy(rows), out=place)


def _range(kind: int, row: int) -> bytes:
    """One byte of a file, as `struct flock` says it."""
    return struct.pack("@hhqqi0q", kind, os.SEEK_SET, row, 1, 0)


def _unpadded(field: OutputKey, value: Tensor, length: int) -> Tensor:
    """One example's answer without padding."""
    if field.kind in ("logits", "cls"):
        return value
    return value[:, :length, :length] if field.kind == "attention" else value[:length]
