"""One field of a cache: rows on disk, each with a checksum."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.teachers.cache.budget import Rows

_SAME_SIZE = {torch.float16: np.int16, torch.bfloat16: np.int16, torch.float32: np.int32}  # numpy has no bfloat16


class CachedField:
    """The rows of one field, memory-mapped, and their checksums.

    Args:
        path: file of the rows, one after the other.
        sums: file of the checksums, one per row; 0 if the row is not written.
        sizes: number of values in each row.
        dtype: of the values.
    """

    def __init__(self, path: Path, sums: Path, sizes: Rows, dtype: torch.dtype) -> None:
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self._path, self._sums_path, self._size = path, sums, dtype.itemsize
        # copy-on-write, because torch needs writable memory; nothing writes to it
        self.rows = torch.from_numpy(np.asarray(np.memmap(path, _SAME_SIZE[dtype], mode="c"))).view(dtype)
        self._sums = np.asarray(np.memmap(sums, np.uint32, mode="r"))
        self._checked = np.zeros(len(sizes), np.bool_)
        self._damaged = np.zeros(len(sizes), np.bool_)
        self._handles: tuple[int, int] | None = None

    def sound(self, rows: Rows) -> tuple[NDArray[np.bool_], int]:
        """[R], True for rows with a correct checksum (compared once), and the number of newly found damaged rows."""
        found = 0
        new = rows[~self._checked[rows] & (self._sums[rows] != 0)].tolist()
        if new:
            # not through the memory map, because compared rows would stay in this process's memory
            with self._path.open("rb", buffering=0) as file:
                for row in new:
                    start, end = (self.starts[row : row + 2] * self._size).tolist()
                    sound = bool(self._sums[row] == _checksum(os.pread(file.fileno(), end - start, start)))
                    found += not (sound or self._damaged[row])
                    self._checked[row], self._damaged[row] = sound, not sound
        return self._checked[rows], found

    def write(self, row: int, data: memoryview) -> None:
        """Writes a row, then its checksum; if the process dies in between, the row does not count as written."""
        start, end = (self.starts[row : row + 2] * self._size).tolist()
        if len(data) != end - start:
            raise ValueError(f"an answer of {len(data)} bytes came for a row of {end - start} in {self._path}")
        if self._handles is None:
            self._handles = (os.open(self._path, os.O_WRONLY), os.open(self._sums_path, os.O_WRONLY))
        rows, sums = self._handles
        _write_all(sums, np.zeros(1, np.uint32).tobytes(), 4 * row)
        _write_all(rows, data, start)
        _write_all(sums, np.uint32(_checksum(data)).tobytes(), 4 * row)
        self._damaged[row] = False

    def close(self) -> None:
        """Closes the files."""
        for handle in self._handles or ():
            os.close(handle)
        self._handles = None


def _write_all(handle: int, data: bytes | memoryview, offset: int) -> None:
    done = 0
    while done < len(data):  # a disk that is nearly full may write only a part
        done += os.pwrite(handle, data[done:], offset + done)


def _checksum(data: bytes | memoryview) -> int:
    return zlib.crc32(data) or 1  # 0 means not written
