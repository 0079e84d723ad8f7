"""One field of a cache: rows on disk, each with a checksum."""

from __future__ import annotations

import errno
import os
import threading
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ackd.teachers.cache.budget import Rows


class CachedField:
    """The rows of one field, and their checksums.

    Rows are read by system calls, not through a memory map: an error of the disk is then an `OSError` and does not kill
    the process, and other threads can compute during the read. Several threads may read.

    Args:
        path: file of the rows, one after the other.
        sums: file of the checksums, one per row; 0 if the row is not written.
        sizes: number of values in each row.
        itemsize: bytes of a value.

    Raises:
        OSError: if the files cannot be opened.
    """

    def __init__(self, path: Path, sums: Path, sizes: Rows, itemsize: int) -> None:
        self.starts = np.concatenate([[0], np.cumsum(sizes)]) * itemsize  # bytes
        self._path, self._sums_path = path, sums
        self._checked = np.zeros(len(sizes), np.bool_)
        self._damaged = np.zeros(len(sizes), np.bool_)
        self._lock = threading.Lock()
        self._open: list[weakref.finalize[[int], CachedField]] = []  # one per file; also called when this object ends
        self._handles: tuple[int, int] | None = None  # for writing
        self._rows_file, self._sums_file = self._opened(os.O_RDONLY)

    def _opened(self, how: int) -> tuple[int, int]:
        handles = []
        for path in (self._path, self._sums_path):
            handles.append(os.open(path, how))
            self._open.append(weakref.finalize(self, os.close, handles[-1]))
        return handles[0], handles[1]

    def sound(self, rows: Rows) -> tuple[NDArray[np.bool_], int]:
        """[R], True for rows with a correct checksum (compared once), and the number of newly found damaged rows.

        Raises:
            OSError: if the files cannot be read.
        """
        found = 0
        with self._lock:
            for row in rows[~self._checked[rows]].tolist():
                expected = int.from_bytes(os.pread(self._sums_file, 4, 4 * row), "little")
                if self._checked[row] or not expected:  # a repeated row, or one that is not written
                    continue
                start, end = self.starts[row : row + 2].tolist()
                sound = expected == _checksum(os.pread(self._rows_file, end - start, start))
                found += not (sound or self._damaged[row])
                self._checked[row], self._damaged[row] = sound, not sound
            return self._checked[rows], found

    def read(self, row: int, place: NDArray[Any]) -> None:
        """Reads a row into an array that is contiguous and has its size.

        Raises:
            OSError: if the file cannot be read, or ends before the row does.
        """
        bytes_of = place.data.cast("B")
        done, start = 0, int(self.starts[row])
        while done < len(bytes_of):
            found = os.preadv(self._rows_file, [bytes_of[done:]], start + done)
            if not found:
                raise OSError(errno.EIO, f"{self._path.name} ends too early")
            done += found

    def write(self, row: int, data: memoryview) -> None:
        """Writes a row, then its checksum; if the process dies in between, the row does not count as written."""
        start, end = self.starts[row : row + 2].tolist()
        if len(data) != end - start:
            raise ValueError(f"an output has {len(data)} bytes, but its row in {self._path} has {end - start}")
        if self._handles is None:
            self._handles = self._opened(os.O_WRONLY)
        rows, sums = self._handles
        _write_all(sums, bytes(4), 4 * row)
        _write_all(rows, data, start)
        _write_all(sums, _checksum(data).to_bytes(4, "little"), 4 * row)
        self._damaged[row] = False

    def close(self) -> None:
        """Closes the files; nothing can be read afterwards."""
        for close in self._open:
            close()


def _write_all(handle: int, data: bytes | memoryview, offset: int) -> None:
    done = 0
    while done < len(data):  # a disk that is nearly full may write only a part
        done += os.pwrite(handle, data[done:], offset + done)


def _checksum(data: bytes | memoryview) -> int:
    return zlib.crc32(data) or 1  # 0 means not written
