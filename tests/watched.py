"""A teacher that several tests listen to."""

from __future__ import annotations

from dataclasses import dataclass, field

from ackd.costs import CostTracker
from ackd.teachers import ModelTeacher
from ackd.types import Batch, ModelDims, OutputRequest, Outputs


@dataclass
class Watched:
    """A teacher that notes which examples it is asked about, and what for."""

    teacher: ModelTeacher
    asked: list[list[int]] = field(default_factory=list)
    needs: list[OutputRequest] = field(default_factory=list)

    @property
    def shape(self) -> ModelDims:
        return self.teacher.shape

    @property
    def fingerprint(self) -> str:
        return self.teacher.fingerprint

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        self.asked.append(batch.ids.tolist())
        self.needs.append(needs)
        return self.teacher(batch, needs, costs)

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        return self.teacher.flops(needs, size, length)
