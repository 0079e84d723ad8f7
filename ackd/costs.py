"""What a run spent, by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

PARTS = ("student", "teacher", "cache", "knowledge", "reward", "report", "agent", "probe")
ACCOUNTS = ("as_run", "as_in_paper")


@dataclass
class CostTracker:
    """FLOPs, seconds and bytes by part, and how often the teacher and the reward split were used.

    `student` is forward, backward and optimizer; `teacher` the answers that were computed, and `cache` those that were
    read and the writing of them; `knowledge` the losses; `reward` the passes over the reward split; `report` those
    over dev, which steer nothing; `agent` its decisions and updates; `probe` what was asked about the setting before
    the first step. FLOPs are matrix products and seconds are wall
    time; on a GPU those of the host, which does not wait for the device inside a phase: they tell where the host was,
    not what the device did. Bytes are what a part handed over: the teacher its answers, the cache what it read and
    wrote. `accounts` are FLOPs of the learning steps once more, in the two ways of `account`.
    """

    flops: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    bytes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    steps: int = 0
    teacher_queries: int = 0  # examples that a teacher computed an answer for
    cached_queries: int = 0  # examples whose answer came from the cache alone
    reward_passes: float = 0.0  # over the reward split, in parts of it where only a part was measured
    accounts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0.0))

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Adds the time inside to a part, less what parts inside it count for themselves."""
        start, counted = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - counted
            self.seconds[part] += time.perf_counter() - start - inside

    def add_flops(self, part: str, flops: float) -> None:
        """Adds FLOPs to a part."""
        self.flops[part] += flops

    def move(self, part: str, size: float) -> None:
        """Adds bytes to a part."""
        self.bytes[part] += size

    def account(self, forward: float, taught: float, *, scored: float = 0.0, picked: float | None = None) -> None:
        """Adds a batch to both accounts of dynamic distillation, where a backward pass counts as one forward pass.

            as_run        scored + 2 forward + taught
            as_in_paper   (scored or forward) + picked + taught

        The first is what ran: 2 F_S + r F_T where every example is learned from and the share r of them is asked
        about. The second is how the paper counts, F_S + r (F_T + F_S), as if the backward pass ran on what was picked
        alone and a pass that only scores were the forward pass too.

        Args:
            forward: FLOPs of the student's forward pass over the examples that it learned from.
            taught: FLOPs of the teachers' answers.
            scored: FLOPs of a forward pass that only scored examples.
            picked: FLOPs of a forward pass over the examples that a teacher taught; all that were learned from if None.

        References:
            Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
            https://arxiv.org/abs/2109.11295
        """
        self.accounts["as_run"] += scored + 2 * forward + taught
        self.accounts["as_in_paper"] += (scored or forward) + (forward if picked is None else picked) + taught

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for `costs.json`."""
        return asdict(self)

    def add(self, other: CostTracker) -> None:
        """Adds the costs of another."""
        for part in PARTS:
            self.flops[part] += other.flops[part]
            self.seconds[part] += other.seconds[part]
            self.bytes[part] += other.bytes[part]
        for name in ACCOUNTS:
            self.accounts[name] += other.accounts[name]
        self.steps += other.steps
        self.teacher_queries += other.teacher_queries
        self.cached_queries += other.cached_queries
        self.reward_passes += other.reward_passes

    def share(self, of: int) -> CostTracker:
        """One of so many equal parts of what was counted; counts are rounded."""
        flops, seconds, sizes, accounts = (
            {part: value / of for part, value in column.items()}
            for column in (self.flops, self.seconds, self.bytes, self.accounts)
        )
        steps, queries, cached = (
            round(count / of) for count in (self.steps, self.teacher_queries, self.cached_queries)
        )
        return CostTracker(flops, seconds, sizes, steps, queries, cached, self.reward_passes / of, accounts)
