"""The folder and the files of a cache entry, and the errors of its disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ackd.errors import InputError
from ackd.files.schema import Object, read
from ackd.teachers.cache.budget import Rows, readable, row_sizes
from ackd.types import ModelDims, OutputKey


class CacheError(InputError):
    """The cache cannot be read or written because its disk is full, missing or broken; runs continue without it."""


@dataclass(frozen=True)
class Examples:
    """The examples of an entry: their ids and numbers of tokens."""

    ids: Rows
    lengths: Rows
    fingerprint: str  # of the teacher's inputs

    def indices(self, ids: Rows) -> Rows:
        """The row of each id; -1 for unknown ids."""
        found = self._order[np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self.ids) - 1)]
        return np.where(self.ids[found] == ids, found, -1)

    @cached_property
    def _order(self) -> Rows:
        return np.argsort(self.ids, kind="stable")


class Entry:
    """The folder of an entry.

    Args:
        folder: the folder.
        shape: sizes of the teacher.
        examples: the examples.
        dtype: of the values.
    """

    def __init__(self, folder: Path, shape: ModelDims, examples: Examples, dtype: torch.dtype) -> None:
        self.folder, self.shape, self.examples, self.dtype = folder, shape, examples, dtype

    def open(self, manifest: dict[str, Any]) -> None:
        """Creates the folder if it does not exist.

        Raises:
            InputError: if it belongs to something else, or cannot be created.
        """
        path = self.folder / "manifest.json"
        if not path.exists():
            self._make(path, manifest)
        found = read(path, Object, "delete that folder")
        for name, value in manifest.items():
            if found.get(name) != value:
                raise InputError(
                    f"the cache entry {self.folder} belongs to another {name}: delete that folder, or choose another"
                )

    def _make(self, path: Path, manifest: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        if not os.access(self.folder, os.W_OK):
            raise InputError(
                f"the cache folder {self.folder.parent} is read-only and holds nothing about this teacher and this "
                "data: fill it with `ackd cache` where it can be written, or run without the cache"
            )
        descriptor, temporary = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)  # other processes that create it at the same time write the same content

    def reserve(self, fields: Iterable[OutputKey]) -> None:
        """Creates the missing files of fields.

        Raises:
            CacheError: if the disk has not enough space, or cannot be written.
        """
        new = [field for field in fields if not self.complete(field)]
        needed = self.bytes_of(new)
        with self.refusing():
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise CacheError(
                    f"the cache would take {readable(needed)}, and the disk of {self.folder.parent} has "
                    f"{readable(free)} free: give a smaller budget, or another folder"
                )
            for field in new:
                for path, size in self.files(field):
                    with path.open("ab") as file:
                        file.truncate(size)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turns the disk's errors into `CacheError`."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise CacheError(
                    f"the cache {self.folder} cannot be used: {error.strerror} (name a folder that can be written)"
                ) from error
            raise CacheError(
                f"the disk is full: free some space, or give a smaller budget, and run again; the cache {self.folder} "
                "keeps its finished rows"
            ) from error

    def files(self, field: OutputKey) -> tuple[tuple[Path, int], tuple[Path, int]]:
        """The files of a field's rows and checksums, with their sizes in bytes."""
        stem = self.folder / f"{field.kind}-{field.layer}"
        return (
            (stem.with_suffix(".rows"), self._bytes(field)),
            (stem.with_suffix(".sums"), 4 * len(self.examples.ids)),
        )

    def complete(self, field: OutputKey) -> bool:
        """Whether a field's files have their sizes."""
        return all(path.exists() and path.stat().st_size == size for path, size in self.files(field))

    def bytes_of(self, fields: Iterable[OutputKey]) -> int:
        """The size of fields on disk, with the rows of all examples."""
        return sum(map(self._bytes, fields))

    def _bytes(self, field: OutputKey) -> int:
        return int(row_sizes(field, self.shape, self.examples.lengths).sum()) * self.dtype.itemsize
