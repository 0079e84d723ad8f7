"""Memory settings of the process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of malloc.h


def reuse_memory() -> None:
    """Keeps freed memory in the process for the next step, which needs the same amount (only with glibc).

    Otherwise large tensors, such as the gradient of the word embeddings, are returned to the kernel and allocated again
    in every step, and the kernel clears all their pages.
    """
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "mallopt"):
        for option, size in ((TRIM_THRESHOLD, 2**31 - 1), (MMAP_MAX, 0), (TOP_PAD, 2**26)):
            glibc.mallopt(option, size)


@contextmanager
def uncollected() -> Iterator[None]:
    """Context manager that turns off garbage collection, for imports.

    torch and transformers create half a million permanent objects; scanning them repeatedly takes a quarter of the
    import time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
