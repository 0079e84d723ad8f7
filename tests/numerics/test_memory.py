"""Memory: what is freed and taken again is not cleared by the kernel anew, and imports are not searched for garbage."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

import pytest

from ackd.numerics.memory import uncollected

COUNT = """
import resource, sys, torch
from ackd.numerics.memory import reuse_memory
if sys.argv[1] == "reuse":
    reuse_memory()
torch.set_num_threads(1)
for _ in range(20):  # the heap takes up to ten rounds to settle, as its start is drawn at random
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_taken_again() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("reuse", "plain")
    }
    assert faults["reuse"] < 0.1 * faults["plain"]


def test_no_garbage_is_collected_within_and_afterwards_as_before() -> None:
    collected: list[str] = []
    gc.callbacks.append(lambda phase, info: collected.append(phase))
    try:
        with uncollected():
            kept = [[] for _ in range(100_000)]  # type: list[list[int]]
            assert not collected
            with pytest.raises(KeyError), uncollected():
                raise KeyError
            assert not gc.isenabled()  # the inner one leaves it to the outer one
        assert gc.isenabled()
        kept += [[] for _ in range(100_000)]
        assert collected
    finally:
        gc.callbacks.pop()
