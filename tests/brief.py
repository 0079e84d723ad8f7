"""What tests need not wait for: a disk that is flushed, and times that are measured again and again."""

from __future__ import annotations

import importlib
import os
from typing import Any


def brief() -> None:
    """In this process, and in those that are forked from it. No test cuts the power, and none compares latencies."""
    system: Any = os
    system.fsync = lambda file: None
    comparison: Any = importlib.import_module("ackd.experiments.comparison")
    comparison.CALLS = 1
