"""One training step: computes only the selected outputs, combines the losses, updates the student."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.errors import InputError, not_finite
from ackd.knowledge import assess, label_loss
from ackd.models import Meter
from ackd.numerics.precision import computing
from ackd.training.gradients import Compass, Pulls
from ackd.training.mixture import Mixture, Scales
from ackd.training.student import Student
from ackd.types import LABELS, Batch, Knowledge, OutputRequest, Outputs, Selection, StepMetrics, Teacher, union
from ackd.weighting.scores import TopFraction
from ackd.weighting.weighting import Answers, Weighting


class Distiller:
    """Training step of one student, or of several side by side, from labels and teachers.

        L = 1/B sum_i [ w_0 v_i CE_i + sum_m g_m sum_k a_k c_k v_ik L_k(x_i, teacher m) ]

    w_0 and a are the selection's weights, g the teachers', v the weighting's. A loss that is computed on a part of the
    examples is the mean over that part. The scale c_k brings the knowledge losses to similar size: it is 1 / (mean of
    L_k over the first `scale_steps` batches with L_k) and then stays fixed. Losses that no student selects are not
    computed; losses that one student selects are computed for all.

    Args:
        student: the student, or several side by side; its projections are trained too.
        teachers: sources of targets; each knowledge type contains the index of its teacher.
        knowledge: the types that a selection can contain.
        meter: counts the FLOPs of the student's passes.
        costs: tracks FLOPs, time, bytes and teacher queries.
        teacher_weights: g; 1 for each if not given.
        scale_steps: batches over which c_k is estimated; 0 keeps every c_k at 1.
        weighting: selects the examples of each loss and their weights v. None: all examples, each with weight 1.
        example_filter: selects the part of each batch to learn from, in a separate forward pass. None: all of it.
        precision: of the student's passes; weights, losses and optimizer stay in float32.
        cosines: whether to compare gradients after each `begin_phase`.
        scale_labels: whether the label loss has a scale c_0, like the knowledge losses.
    """

    def __init__(
        self,
        student: Student,
        teachers: Sequence[Teacher],
        knowledge: Sequence[Knowledge],
        *,
        meter: Meter,
        costs: CostTracker,
        teacher_weights: Sequence[float] = (),
        scale_steps: int = 10,
        weighting: Weighting | None = None,
        example_filter: TopFraction | None = None,
        precision: Precision = "fp32",
        cosines: bool = False,
        scale_labels: bool = False,
    ) -> None:
        self.student = student
        self.teachers = teachers
        self.knowledge: Mapping[str, Knowledge] = {one.name: one for one in knowledge}
        self.meter = meter
        self.costs = costs
        self.teacher_weights = teacher_weights or [1.0] * len(teachers)
        device = student.parameters[0].device
        self.scales = Scales(scale_steps, student.shape, device, student.group, labels=scale_labels)
        self.weighting, self.example_filter = weighting, example_filter
        self.precision = precision
        self._compass = Compass(student.model, meter) if cosines else None
        self._comparing, self._pulls = False, Pulls()

    @property
    def picks(self) -> bool:
        """Whether examples are filtered or weighted."""
        return self.example_filter is not None or self.weighting is not None

    def begin_phase(self) -> None:
        """Makes the first batch of the next step compare gradients, if `cosines` is set."""
        self._comparing = self._compass is not None

    def mixture(self, selections: Sequence[Selection]) -> Mixture:
        """Combines the selections of all students.

        Raises:
            KeyError: if a selection contains an unknown knowledge type.
        """
        shares = {name: self.teacher_weights[one.teacher] for name, one in self.knowledge.items()}
        return Mixture.of(selections, shares, self.student.parameters[0].device)

    def step(self, batches: Sequence[Batch], selection: Selection | Mixture) -> StepMetrics[Tensor]:
        """Takes one optimizer step on the mean loss of the batches; the metrics stay on the device.

        Raises:
            KeyError: if the selection contains an unknown knowledge type.
        """
        if not self.student.model.training:  # the call goes through every module
            self.student.model.train()
        mixture = selection if isinstance(selection, Mixture) else self.mixture([selection])
        self._pulls = Pulls()
        figures = []
        for batch in batches:
            loss, told = self._loss(batch, mixture)
            figures.append(told)
            with self.costs.timing("student"):
                # each student's loss depends on its own parameters only, so each gets its own gradient
                (1 / len(batches) * loss).backward(torch.ones_like(loss))
        with self.costs.timing("student"):
            norm = self.student.update()
        self.costs.steps += 1
        total, labels, uncertainty, accuracy, *losses = torch.stack(figures).mean(0)
        known = dict(zip(mixture.names, losses, strict=True))
        return StepMetrics(total, labels, norm, uncertainty, accuracy, known, self._pulls.cosines, self._pulls.norms)

    def _loss(self, batch: Batch, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and detached [loss, label loss, uncertainty, accuracy, *knowledge losses]."""
        chosen = [self.knowledge[name] for name in mixture.names]
        size, scored, taught = self.student.size, 0.0, self.costs.flops["teacher"]
        with computing(self.precision, batch.mask.device):
            if self.example_filter is not None:
                scored = size * self.meter(OutputRequest(logits=True)).forward(*batch.shape)
                batch = self._thinned(batch, self.example_filter)
            needs = self._read(chosen)
            passes = self.meter(needs)
            forward = size * passes.forward(*batch.shape)
            self.costs.add_flops("student", scored + 3 * forward)
            with self.costs.timing("student"):
                outputs = self.student.forward(batch, needs)
                label_losses, sure, right = self.student.each(_judged, outputs, batch.labels)
            rows = self.weighting.pick(outputs, batch, chosen) if self.weighting else {}
            losses, answers, picked = self._taught(batch, outputs, chosen, rows)
            losses = {LABELS: label_losses, **losses}
            part = size * passes.forward(*_covering(batch, picked)) if chosen else None
            self.costs.account(forward, self.costs.flops["teacher"] - taught, scored=scored, picked=part)
            with self.costs.timing("knowledge"):
                weights: Mapping[str, Tensor] = {}
                if self.weighting is not None:
                    known = Answers(batch, outputs, answers, losses, self.student.progress, self.costs)
                    weights = self.weighting.weigh(known, chosen, rows)
                raw, parts = _means(losses, weights)
                loss = mixture.total(raw, parts, {name: one.shape[-1] for name, one in losses.items()}, self.scales)
        if self._compass is not None and self._comparing:
            self._comparing = False
            with self.costs.timing("probe"):
                self.costs.add_flops("probe", self._compass.flops(chosen, *batch.shape))
                self._pulls = self._compass(chosen, parts)
        with self.costs.timing("student"):
            self.student.meets(parts, mixture)
        return loss, torch.stack([loss.detach(), raw[LABELS], sure, right, *(raw[one.name] for one in chosen)])

    def _taught(
        self, batch: Batch, outputs: Outputs, chosen: Sequence[Knowledge], rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Outputs], set[int]]:
        """Per type, the losses and the teacher's outputs on its rows; and the union of all rows."""
        losses: dict[str, Tensor] = {}
        answers: dict[str, Outputs] = {}
        picked: set[int] = set()
        for indices, terms in _by_rows(chosen, rows):
            if indices is not None and not len(indices):
                losses |= {one.name: batch.mask.new_zeros(0, dtype=torch.float32) for one in terms}
                continue
            listed = None if indices is None else indices.tolist()
            there = batch if listed is None else batch.rows(listed)
            picked.update(range(batch.shape[0]) if listed is None else listed)
            self.costs.add_flops("knowledge", self.student.size * sum(one.flops(*there.shape) for one in terms))
            mine = outputs if indices is None else outputs.rows(indices, there.shape[1])
            theirs = {m: self.teachers[m](there, asked, self.costs) for m, asked in self.asked(terms).items()}
            with self.costs.timing("knowledge"):
                losses |= {one.name: self.student.each(one, mine, theirs[one.teacher], there) for one in terms}
            answers |= {one.name: theirs[one.teacher] for one in terms}
        return losses, answers, picked

    def _thinned(self, batch: Batch, example_filter: TopFraction) -> Batch:
        """The examples that the filter keeps, scored by a separate forward pass."""
        with torch.no_grad(), self.costs.timing("student"):
            logits = self.student.forward(batch, OutputRequest(logits=True)).logits
            assert logits is not None
            return batch.rows(example_filter(logits, batch.labels).tolist())

    def _read(self, chosen: Sequence[Knowledge]) -> OutputRequest:
        """The student outputs that the losses and the weighting need."""
        weighting = self.weighting.reads() if self.weighting is not None else OutputRequest()
        return union([OutputRequest(logits=True), weighting, *(one.student_needs for one in chosen)])

    def asked(self, chosen: Sequence[Knowledge]) -> dict[int, OutputRequest]:
        """The outputs that `chosen` needs from each teacher, by the teacher's index."""
        indices = sorted({one.teacher for one in chosen})
        return {m: union(one.teacher_needs for one in chosen if one.teacher == m) for m in indices}

    def raise_on_nonfinite_targets(self, batches: Iterable[Batch], chosen: Sequence[Knowledge]) -> None:
        """Repeats the teacher's forward passes of a phase that failed, to find the cause.

        Raises:
            InputError: if some outputs are NaN or infinite; it names their examples.
        """
        for batch in batches:
            for m, needs in self.asked(chosen).items():
                answer = self.teachers[m](batch, needs, CostTracker())
                for field in needs.fields:
                    bad = ~torch.isfinite(answer[field]).flatten(1).all(1).cpu()
                    if bad.any():
                        raise InputError(not_finite(field.kind, batch.ids[bad].tolist()))

    def flops(self, chosen: Sequence[Knowledge], size: int, length: int, *, whole: bool = False) -> float:
        """FLOPs of transferring `chosen` from a padded batch without a cache.

        With `whole`, filter and weighting are ignored: all examples count.
        """
        needs = self._read(chosen)
        scored = 0.0
        if self.example_filter is not None and not whole:
            scored = self.meter(OutputRequest(logits=True)).forward(size, length)
            size = self.example_filter.count(size)
        counts = self.weighting.counts(size, chosen) if self.weighting is not None and not whole else {}
        teachers = losses = 0.0
        for count in {counts.get(one.name, size) for one in chosen} - {0}:
            terms = [one for one in chosen if counts.get(one.name, size) == count]
            teachers += sum(self.teachers[m].flops(asked, count, length) for m, asked in self.asked(terms).items())
            losses += sum(one.flops(count, length) for one in terms)
        # backward counts as two forward passes
        return scored + 3 * self.meter(needs).forward(size, length) + teachers + losses

    def state_dict(self) -> dict[str, Any]:
        """The state of the student, the scales and the weighting."""
        weighting = self.weighting.state_dict() if self.weighting is not None else {}
        return {"student": self.student.state_dict(), **self.scales.state_dict(), "weighting": weighting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`.

        Raises:
            ValueError: if it belongs to another training.
        """
        self.student.load_state_dict(state["student"])
        self.scales.load_state_dict(state)
        if self.weighting is not None:
            self.weighting.load_state_dict(state["weighting"])


def _means(losses: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Each loss's plain mean (detached) and its mean weighted by example (with gradient)."""
    raw, parts = {}, {}
    for name, each in losses.items():
        mean = each.mean(-1) if each.shape[-1] else 0.0 * losses[LABELS].mean(-1)  # no examples may be selected
        raw[name] = mean.detach()
        parts[name] = (weights[name] * each).mean(-1) if name in weights and each.shape[-1] else mean
    return raw, parts


def _judged(outputs: Outputs, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A student's label losses, [B], its uncertainty and its accuracy."""
    assert outputs.logits is not None
    return label_loss(outputs.logits, labels), *assess(outputs.logits, labels)


def _covering(batch: Batch, indices: set[int]) -> tuple[int, int]:
    """The padded shape of a batch with only the examples at `indices`."""
    return (len(indices), int(batch.lengths[list(indices)].max())) if indices else (0, 0)


def _by_rows(terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> list[tuple[Tensor | None, list[Knowledge]]]:
    """Groups the types by the rows that their losses use: (rows, types); None means all rows."""
    groups: dict[int, tuple[Tensor | None, list[Knowledge]]] = {}
    for one in terms:
        indices = rows.get(one.name)
        groups.setdefault(id(indices), (indices, []))[1].append(one)
    return list(groups.values())
