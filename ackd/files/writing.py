"""Writes files atomically."""

from __future__ import annotations

import io
import os
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
