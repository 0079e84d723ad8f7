"""Writes files and folders atomically."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically, and makes its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: Path, content: Any) -> None:
    """Writes tensors, numbers and names atomically, for `ackd.files.reading.read_tensors`."""
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` when all went well; else it goes, and `path` is as it was.

    It lies beside `path`, or above where that has no place yet, under a hidden name. What a killed process left there
    goes as well.
    """
    path = path.absolute()
    above = next(one for one in path.parents if one.exists())
    for left in above.iterdir():
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+", left.name):
            _remove_left(left)
    partial = above / f".{path.name}.{os.getpid()}"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield partial
        for file in partial.rglob("*"):
            _reach_disk(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        _take_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def _remove_left(folder: Path) -> None:
    """Removes what nobody is writing any more."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(handle)


def _reach_disk(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _take_place(new: Path, path: Path) -> None:
    """Renames `new` to `path`, and removes what was there."""
    before = path.with_name(f"{new.name}.before")
    if path.exists():
        path.rename(before)
    try:
        new.rename(path)
    except OSError:
        if before.exists():
            before.rename(path)
        raise
    shutil.rmtree(before, ignore_errors=True)
