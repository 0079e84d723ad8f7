"""One learning step: ask only for what is selected, mix the losses, learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ackd.knowledge import label_loss
from ackd.ledger import Ledger
from ackd.models import Cost, run
from ackd.student import Student
from ackd.types import Batch, Knowledge, Needs, Report, Selection, Teacher, union


@dataclass(frozen=True)
class Prices:
    """What a step costs: the students' and the teacher's forward pass."""

    student: Cost
    teacher: Cost

    def step(self, knowledge: Sequence[Knowledge], size: int, length: int) -> dict[str, float]:
        """FLOPs by part of one step that transfers `knowledge`, for a padded batch; backward counts twice a forward."""
        return {
            "student": 3 * self.student.forward(size, length),
            "teacher": self.teacher.forward(size, length) if knowledge else 0.0,
            "knowledge": sum(one.flops(size, length) for one in knowledge),
        }


class Distiller:
    """A student, its teacher and the knowledge that can pass between them.

        L = 1/B sum_i [ CE_i + sum_k a_k c_k L_k(x_i) ]

    a is the selection's weight. c brings the knowledge losses to one size: 1 / (mean of L_k over the first
    `scale_steps` steps that computed it), fixed from then on. What is not selected is not computed.

    Args:
        student: what learns; the knowledge types' projections are its companions.
        teacher: who answers; None for training on labels alone.
        knowledge: the types that a selection may name.
        prices: what the ledger is told of the passes.
        ledger: where FLOPs, time and teacher queries are counted.
        scale_steps: 0 leaves every c_k at 1.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher | None,
        knowledge: Sequence[Knowledge],
        *,
        prices: Prices,
        ledger: Ledger,
        scale_steps: int = 10,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.knowledge: Mapping[str, Knowledge] = {one.name: one for one in knowledge}
        self.prices = prices
        self.ledger = ledger
        self.scale_steps = scale_steps
        self._sums: dict[str, Tensor] = {}  # of each type's first losses, on the device
        self._seen: dict[str, int] = {}

    def step(self, batch: Batch, selection: Selection) -> Report[Tensor]:
        """One optimizer step; the report stays on the device.

        Raises:
            KeyError: if the selection names a type that this distiller does not have.
        """
        chosen = [self.knowledge[name] for name in selection.chosen]
        size, length = batch.shape
        for part, flops in self.prices.step(chosen, size, length).items():
            self.ledger.spend(part, flops)
        with self.ledger.timing("student"):
            needs = union([Needs(logits=True), *(one.student_needs for one in chosen)])
            outputs = run(self.student.model.train(), batch, needs)
            assert outputs.logits is not None
            labels = label_loss(outputs.logits, batch.labels).mean()
        losses: dict[str, Tensor] = {}
        if chosen:
            assert self.teacher is not None
            with self.ledger.timing("teacher"):
                answer = self.teacher(batch, union(one.teacher_needs for one in chosen))
                self.ledger.teacher_queries += size
            with self.ledger.timing("knowledge"):
                losses = {one.name: one(outputs, answer, batch).mean() for one in chosen}
        loss = labels
        for name, raw in losses.items():
            loss = loss + selection.weights[name] * self._scaled(name, raw)
        with self.ledger.timing("student"):
            norm = self.student.learn(loss)
        self.ledger.steps += 1
        report = {name: raw.detach() for name, raw in losses.items()}
        return Report(loss.detach(), labels.detach(), norm.detach(), report)

    def _scaled(self, name: str, loss: Tensor) -> Tensor:
        if not self.scale_steps:
            return loss
        if self._seen.get(name, 0) < self.scale_steps:
            self._sums[name] = self._sums.get(name, torch.zeros_like(loss.detach())) + loss.detach()
            self._seen[name] = self._seen.get(name, 0) + 1
        # the clamp keeps a loss that starts at 0, as between equal models, from dividing by 0
        return loss / (self._sums[name] / self._seen[name]).clamp_min(1e-6)

    def state_dict(self) -> dict[str, Any]:
        """The student's state and the scales."""
        return {"student": self.student.state_dict(), "sums": dict(self._sums), "seen": dict(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.student.load_state_dict(state["student"])
        self._sums, self._seen = dict(state["sums"]), dict(state["seen"])
