"""How the process keeps its memory."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of malloc.h


def reuse_memory() -> None:
    """Keeps the process's freed memory for the next step, which takes the same again; only glibc has such a switch.

    Otherwise large tensors, such as the gradient of the word embeddings, are given back and asked for anew every step,
    and the kernel clears every page of them.
    """
    glibc = ctypes.CDLL(None)
    if hasattr(glibc, "mallopt"):
        for option, size in ((TRIM_THRESHOLD, 2**31 - 1), (MMAP_MAX, 0), (TOP_PAD, 2**26)):
            glibc.mallopt(option, size)
