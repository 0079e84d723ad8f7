"""What a run spent, by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

PARTS = ("student", "teacher", "knowledge", "reward", "report", "agent")


@dataclass
class Ledger:
    """FLOPs and seconds by part, and how often the teacher and the reward split were used.

    `student` is forward, backward and optimizer; `knowledge` the losses; `reward` the passes over the reward split;
    `report` those over dev, which steer nothing; `agent` its decisions and updates. On a GPU the seconds are those of
    the host, which does not wait for the device inside a phase: they tell where the host was, not what the device did.
    """

    flops: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    steps: int = 0
    teacher_queries: int = 0  # examples the teacher answered
    reward_passes: int = 0

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Adds the time inside to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def spend(self, part: str, flops: float) -> None:
        """Adds FLOPs to a part."""
        self.flops[part] += flops

    @property
    def training_flops(self) -> float:
        """FLOPs of the optimizer steps alone."""
        return self.flops["student"] + self.flops["teacher"] + self.flops["knowledge"]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for `ledger.json`."""
        return asdict(self)

    def add(self, other: Ledger) -> None:
        """Takes over what another ledger counted."""
        for part in PARTS:
            self.flops[part] += other.flops[part]
            self.seconds[part] += other.seconds[part]
        self.steps += other.steps
        self.teacher_queries += other.teacher_queries
        self.reward_passes += other.reward_passes
