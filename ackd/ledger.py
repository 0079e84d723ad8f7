"""What a run spent, by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

PARTS = ("student", "teacher", "cache", "knowledge", "reward", "report", "agent")


@dataclass
class Ledger:
    """FLOPs, seconds and bytes by part, and how often the teacher and the reward split were used.

    `student` is forward, backward and optimizer; `teacher` the answers that were computed, and `cache` those that were
    read and the writing of them; `knowledge` the losses; `reward` the passes over the reward split; `report` those
    over dev, which steer nothing; `agent` its decisions and updates. FLOPs are matrix products and seconds are wall
    time; on a GPU those of the host, which does not wait for the device inside a phase: they tell where the host was,
    not what the device did. Bytes are what a part handed over: the teacher its answers, the cache what it read and
    wrote.
    """

    flops: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    bytes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    steps: int = 0
    teacher_queries: int = 0  # examples that a teacher computed an answer for
    cached_queries: int = 0  # examples whose answer came from the cache alone
    reward_passes: float = 0.0  # over the reward split, in parts of it where only a part was measured

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Adds the time inside to a part, less what parts inside it count for themselves."""
        start, counted = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - counted
            self.seconds[part] += time.perf_counter() - start - inside

    def spend(self, part: str, flops: float) -> None:
        """Adds FLOPs to a part."""
        self.flops[part] += flops

    def move(self, part: str, size: float) -> None:
        """Adds bytes to a part."""
        self.bytes[part] += size

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for `ledger.json`."""
        return asdict(self)

    def add(self, other: Ledger) -> None:
        """Takes over what another ledger counted."""
        for part in PARTS:
            self.flops[part] += other.flops[part]
            self.seconds[part] += other.seconds[part]
            self.bytes[part] += other.bytes[part]
        self.steps += other.steps
        self.teacher_queries += other.teacher_queries
        self.cached_queries += other.cached_queries
        self.reward_passes += other.reward_passes

    def share(self, of: int) -> Ledger:
        """One of so many equal parts of what was counted; counts are rounded."""
        flops, seconds, sizes = (
            {part: value / of for part, value in column.items()} for column in (self.flops, self.seconds, self.bytes)
        )
        steps, queries, cached = (
            round(count / of) for count in (self.steps, self.teacher_queries, self.cached_queries)
        )
        return Ledger(flops, seconds, sizes, steps, queries, cached, self.reward_passes / of)
