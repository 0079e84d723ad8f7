"""One learning step: ask only for what is selected, mix the losses, learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ackd.knowledge import assess, label_loss
from ackd.ledger import Ledger
from ackd.models import Meter, run
from ackd.precision import Precision, computing
from ackd.student import Student
from ackd.types import Batch, Knowledge, Needs, Report, Selection, Teacher, union


class Distiller:
    """A student, its teachers and the knowledge that can pass between them.

        L = 1/B sum_i [ w_0 CE_i + sum_m g_m sum_k a_k c_k L_k(x_i, teacher m) ]

    w_0 and a are the selection's weights, g the teachers'. c brings the knowledge losses to one size: 1 / (mean of
    L_k over the first `scale_steps` batches that computed it), fixed from then on. What is not selected is not
    computed.

    Args:
        student: what learns; the knowledge types' projections are its companions.
        teachers: who answers; each knowledge type names its teacher by the place in here.
        knowledge: the types that a selection may name.
        meter: counts what the student's passes cost.
        ledger: where FLOPs, time, bytes and teacher queries are counted.
        teacher_weights: g; 1 for each if not given.
        scale_steps: 0 leaves every c_k at 1.
        precision: of the student's passes; weights, losses and optimizer stay in float32.
    """

    def __init__(
        self,
        student: Student,
        teachers: Sequence[Teacher],
        knowledge: Sequence[Knowledge],
        *,
        meter: Meter,
        ledger: Ledger,
        teacher_weights: Sequence[float] = (),
        scale_steps: int = 10,
        precision: Precision = "fp32",
    ) -> None:
        self.student = student
        self.teachers = teachers
        self.knowledge: Mapping[str, Knowledge] = {one.name: one for one in knowledge}
        self.meter = meter
        self.ledger = ledger
        self.teacher_weights = teacher_weights or [1.0] * len(teachers)
        self.scale_steps = scale_steps
        self.precision = precision
        self._sums: dict[str, Tensor] = {}  # of each type's first losses, on the device
        self._seen: dict[str, int] = {}

    def step(self, batches: Sequence[Batch], selection: Selection) -> Report[Tensor]:
        """One optimizer step on the mean loss of the batches; the report stays on the device.

        Raises:
            KeyError: if the selection names a type that this distiller does not have.
        """
        if not self.student.model.training:  # the call goes through every module
            self.student.model.train()
        figures = [self._learn(batch, selection, 1 / len(batches)) for batch in batches]
        with self.ledger.timing("student"):
            norm = self.student.update()
        self.ledger.steps += 1
        loss, labels, uncertainty, accuracy, *losses = torch.stack(figures).mean(0)
        return Report(loss, labels, norm, uncertainty, accuracy, dict(zip(selection.chosen, losses, strict=True)))

    def _learn(self, batch: Batch, selection: Selection, share: float) -> Tensor:
        """Adds the gradient of one batch's `share` of the step; its loss, label loss, uncertainty, accuracy, losses."""
        chosen = [self.knowledge[name] for name in selection.chosen]
        size, length = batch.shape
        needs = union([Needs(logits=True), *(one.student_needs for one in chosen)])
        self.ledger.spend("student", self._student_price(needs, size, length))
        self.ledger.spend("knowledge", sum(one.flops(size, length) for one in chosen))
        with computing(self.precision, batch.mask.device):
            with self.ledger.timing("student"):
                outputs = run(self.student.model, batch, needs)
                assert outputs.logits is not None
                labels = label_loss(outputs.logits, batch.labels).mean()
                sure, right = assess(outputs.logits, batch.labels)
            answers = {m: self.teachers[m](batch, asked, self.ledger) for m, asked in self.asked(chosen).items()}
            with self.ledger.timing("knowledge"):
                losses = {one.name: one(outputs, answers[one.teacher], batch).mean() for one in chosen}
                # a label loss of weight 0 is left out: its gradient of zeros would let the head's weights decay
                terms = [selection.labels * labels] if selection.labels else []
                for one in chosen:
                    weight = self.teacher_weights[one.teacher] * selection.weights[one.name]
                    terms.append(weight * self._scaled(one.name, losses[one.name]))
                loss = sum(terms[1:], terms[0])
        with self.ledger.timing("student"):
            self.student.learn(share * loss)
        return torch.stack([loss.detach(), labels.detach(), sure, right, *(raw.detach() for raw in losses.values())])

    def asked(self, chosen: Sequence[Knowledge]) -> dict[int, Needs]:
        """What is asked of each teacher that has any part in `chosen`, by the teacher's place."""
        places = sorted({one.teacher for one in chosen})
        return {m: union(one.teacher_needs for one in chosen if one.teacher == m) for m in places}

    def price(self, chosen: Sequence[Knowledge], size: int, length: int) -> float:
        """FLOPs of transferring `chosen` from a padded batch with every answer computed: the price without a cache."""
        needs = union([Needs(logits=True), *(one.student_needs for one in chosen)])
        teachers = sum(self.teachers[m].price(asked, size, length) for m, asked in self.asked(chosen).items())
        losses = sum(one.flops(size, length) for one in chosen)
        return self._student_price(needs, size, length) + teachers + losses

    def _student_price(self, needs: Needs, size: int, length: int) -> float:
        return 3 * self.meter(needs).forward(size, length)  # backward counts as two forward passes

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
