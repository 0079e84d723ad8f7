"""Decides which outputs are read from a cache: those that are read faster than the teacher computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ackd.types import OutputKey, OutputRequest

MARGIN = 0.1  # computing is chosen if it saves at least this share of the time,
LEAST = 5e-4  # and this many seconds per batch; smaller differences are measurement noise


@dataclass(frozen=True)
class Prices:
    """Measured seconds of a typical batch on one device.

        T(C) = pass + max(sum of read over all other requested fields - hidden, 0)
        pass = whole * share(C) + sum of more over C

    C are the computed fields, and share(C) is the share of the teacher's FLOPs up to their last layer: one pass
    computes them all, so if one field at the last layer has to be computed, the others cost only `more`.

    Args:
        device: the device, and on a CPU the number of threads.
        batch: examples and tokens of the padded batch.
        whole: seconds of the teacher's pass up to its logits.
        more: by kind, further seconds for each field that the pass returns.
        read: by kind, seconds to read a field, from storage to the device.
        hidden: seconds of a step during which a thread reads ahead; 0 without such a thread.
    """

    device: str
    batch: tuple[int, int]
    whole: float
    more: Mapping[str, float]
    read: Mapping[str, float]
    hidden: float = 0.0

    def seconds(
        self, wanted: Iterable[OutputKey], computed: frozenset[OutputKey], share: Callable[[OutputRequest], float]
    ) -> float:
        """T(C), the seconds for `wanted` if `computed` are computed and the others are read."""
        reading = sum(self.read[field.kind] for field in frozenset(wanted) - computed)
        more = sum(self.more.get(field.kind, 0.0) for field in computed)
        return self.whole * share(OutputRequest.of(computed)) + more + max(reading - self.hidden, 0.0)

    def choose(
        self, wanted: Iterable[OutputKey], kept: frozenset[OutputKey], share: Callable[[OutputRequest], float]
    ) -> frozenset[OutputKey]:
        """The fields to read: all kept ones, unless computing some of them is clearly faster.

        Candidates are the passes that stop after the last layer of one field: such a pass returns every field that it
        reaches and that is read more slowly than returned. The best one is the best choice of all if nothing is hidden.

        Args:
            wanted: the requested fields.
            kept: the fields that the cache may contain; all others are computed.
            share: the share of the teacher's FLOPs that a request takes, 0 to 1.
        """
        wanted = frozenset(wanted)
        forced, readable = wanted - kept, wanted & kept
        slow = {field for field in readable if self.read[field.kind] > self.more.get(field.kind, 0.0)}
        passes = [
            forced | {field for field in slow if _depth(field) <= depth}
            for depth in sorted({_depth(field) for field in wanted})
        ]
        now = self.seconds(wanted, forced, share)
        best = min(passes, key=lambda computed: self.seconds(wanted, computed, share), default=forced)
        least = self.seconds(wanted, best, share)
        return readable - best if least < (1 - MARGIN) * now and least < now - LEAST else readable


def _depth(field: OutputKey) -> float:
    """The last layer that has to run for a field; the logits need all layers."""
    return float("inf") if field.kind == "logits" else field.layer
