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
    """Context manager that writes a folder atomically: yields a temporary folder, which replaces `path` at the end.

    After an error the temporary folder is removed, and `path` stays unchanged. It is a hidden folder in the nearest
    parent of `path` that exists. Temporary folders of killed processes are removed too.
    """
    path = path.absolute()
    parent = next(one for one in path.parents if one.exists())
    for left in parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+", left.name):
            _remove_left(left)
    partial = parent / f".{path.name}.{os.getpid()}"
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
    """Removes a temporary folder, unless a process holds its lock."""
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
    """Renames `new` to `path`, and removes the old folder."""
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
