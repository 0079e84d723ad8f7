"""Costs of a run, by part."""

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
    """FLOPs, seconds and bytes by part, and the use of the teacher and the reward split.

    Parts: `student` is forward, backward and optimizer; `teacher` the computed outputs; `cache` reading and writing
    cached outputs; `knowledge` the losses; `reward` the passes over the reward split; `report` the passes over dev,
    which influence nothing; `agent` its decisions and updates; `probe` the facts before the first step.

    FLOPs are those of matrix products. Seconds are wall time of the host; on a GPU the host does not wait for the
    device inside a phase, so they do not measure the device's work. Bytes are the teacher's outputs, and the data that
    the cache read and wrote. `accounts` are the FLOPs of the training steps in the two ways of `account`.
    """

    flops: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    bytes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    steps: int = 0
    teacher_queries: int = 0  # examples with outputs computed by a teacher
    cached_queries: int = 0  # examples with outputs from the cache only
    reward_passes: float = 0.0  # passes over the reward split; a pass over a part counts as its share
    accounts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0.0))

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Adds the time of a block to a part, without the time of nested blocks."""
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
        """Adds a batch to both accounts of dynamic distillation; a backward pass counts as one forward pass.

            as_run        scored + 2 forward + taught
            as_in_paper   (scored or forward) + picked + taught

        `as_run` is what the program ran: 2 F_S + r F_T, if the student learns from every example and the teacher runs
        on the share r of them. `as_in_paper` is the paper's count, F_S + r (F_T + F_S): it assumes that the backward
        pass runs on the selected examples only, and that a scoring pass is also the forward pass.

        Args:
            forward: FLOPs of the student's forward pass over its training examples.
            taught: FLOPs of the teachers.
            scored: FLOPs of a forward pass that only scored examples.
            picked: FLOPs of a forward pass over the examples with teacher targets; None: all training examples.

        References:
            Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
            https://arxiv.org/abs/2109.11295
        """
        self.accounts["as_run"] += scored + 2 * forward + taught
        self.accounts["as_in_paper"] += (scored or forward) + (forward if picked is None else picked) + taught

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for `ledger.json`."""
        return asdict(self)

    def add(self, other: CostTracker) -> None:
        """Adds the costs of another tracker."""
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
        """The costs divided by `of`; counts are rounded."""
        flops, seconds, sizes, accounts = (
            {part: value / of for part, value in column.items()}
            for column in (self.flops, self.seconds, self.bytes, self.accounts)
        )
        steps, queries, cached = (
            round(count / of) for count in (self.steps, self.teacher_queries, self.cached_queries)
        )
        return CostTracker(flops, seconds, sizes, steps, queries, cached, self.reward_passes / of, accounts)
