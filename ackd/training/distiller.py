"""One learning step: ask only for what is selected, mix the losses, learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ackd.config import Precision
from ackd.errors import InputError, not_finite
from ackd.files.reading import alike
from ackd.knowledge import assess, label_loss
from ackd.ledger import Ledger
from ackd.models import Meter, run
from ackd.numerics.precision import computing
from ackd.training.gradients import Compass, Pulls
from ackd.training.student import Student
from ackd.types import LABELS, Batch, Knowledge, Needs, Outputs, Report, Selection, Teacher, union
from ackd.weighting.scores import Pick
from ackd.weighting.weighting import Answers, Weighting


class Distiller:
    """A student, its teachers and the knowledge that can pass between them.

        L = 1/B sum_i [ w_0 v_i CE_i + sum_m g_m sum_k a_k c_k v_ik L_k(x_i, teacher m) ]

    w_0 and a are the selection's weights, g the teachers', v the weighting's; a term that is taken on some of the
    examples alone is a mean over those. c brings the knowledge losses to one size: 1 / (mean of
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
        weighting: which examples each loss is taken on and how much each counts; all of them, each 1, if None.
        thin: the part of each batch that the student learns from at all, scored in a pass of its own; all if None.
        precision: of the student's passes; weights, losses and optimizer stay in float32.
        cosines: whether gradients are compared after each `begin_phase`.
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
        weighting: Weighting | None = None,
        thin: Pick | None = None,
        precision: Precision = "fp32",
        cosines: bool = False,
    ) -> None:
        self.student = student
        self.teachers = teachers
        self.knowledge: Mapping[str, Knowledge] = {one.name: one for one in knowledge}
        self.meter = meter
        self.ledger = ledger
        self.teacher_weights = teacher_weights or [1.0] * len(teachers)
        self.scale_steps = scale_steps
        self.weighting, self.thin = weighting, thin
        self.precision = precision
        self._compass = Compass(student.model, meter) if cosines else None
        self._comparing, self._pulls = False, Pulls()
        self._sums: dict[str, Tensor] = {}  # of each type's first losses, on the device
        self._seen: dict[str, int] = {}

    def begin_phase(self) -> None:
        """The first batch of the next step compares gradients, if this distiller does."""
        self._comparing = self._compass is not None

    def step(self, batches: Sequence[Batch], selection: Selection) -> Report[Tensor]:
        """One optimizer step on the mean loss of the batches; the report stays on the device.

        Raises:
            KeyError: if the selection names a type that this distiller does not have.
        """
        if not self.student.model.training:  # the call goes through every module
            self.student.model.train()
        self._pulls = Pulls()
        figures = [self._learn(batch, selection, 1 / len(batches)) for batch in batches]
        with self.ledger.timing("student"):
            norm = self.student.update()
        self.ledger.steps += 1
        loss, labels, uncertainty, accuracy, *losses = torch.stack(figures).mean(0)
        return Report(
            loss,
            labels,
            norm,
            uncertainty,
            accuracy,
            dict(zip(selection.chosen, losses, strict=True)),
            self._pulls.cosines,
            self._pulls.norms,
        )

    def _learn(self, batch: Batch, selection: Selection, share: float) -> Tensor:
        """Adds the gradient of one batch's `share` of the step; its loss, label loss, uncertainty, accuracy, losses."""
        chosen = [self.knowledge[name] for name in selection.chosen]
        scored, taught = 0.0, self.ledger.flops["teacher"]
        with computing(self.precision, batch.mask.device):
            if self.thin is not None:
                scored = self.meter(Needs(logits=True)).forward(*batch.shape)
                batch = self._thinned(batch, self.thin)
            needs = self._read(chosen)
            passes = self.meter(needs)
            self.ledger.spend("student", scored + 3 * passes.forward(*batch.shape))
            with self.ledger.timing("student"):
                outputs = run(self.student.model, batch, needs)
                assert outputs.logits is not None
                losses = {LABELS: label_loss(outputs.logits, batch.labels)}
                sure, right = assess(outputs.logits, batch.labels)
            rows = self.weighting.pick(outputs, batch, chosen) if self.weighting else {}
            answers: dict[str, Outputs] = {}
            picked: set[int] = set()  # what any term is taken on; all where there is none
            for places, terms in _by_rows(chosen, rows):
                if places is not None and not len(places):
                    losses |= {one.name: outputs.logits.new_zeros(0) for one in terms}
                    continue
                listed = None if places is None else places.tolist()
                there = batch if listed is None else batch.rows(listed)
                picked.update(range(batch.shape[0]) if listed is None else listed)
                self.ledger.spend("knowledge", sum(one.flops(*there.shape) for one in terms))
                mine = outputs if places is None else outputs.rows(places, there.shape[1])
                theirs = {m: self.teachers[m](there, asked, self.ledger) for m, asked in self.asked(terms).items()}
                with self.ledger.timing("knowledge"):
                    losses |= {one.name: one(mine, theirs[one.teacher], there) for one in terms}
                answers |= {one.name: theirs[one.teacher] for one in terms}
            taught = self.ledger.flops["teacher"] - taught
            part = passes.forward(*_covering(batch, picked)) if chosen else None
            self.ledger.account(passes.forward(*batch.shape), taught, scored=scored, picked=part)
            with self.ledger.timing("knowledge"):
                weights: Mapping[str, Tensor] = {}
                if self.weighting is not None:
                    known = Answers(batch, outputs, answers, losses, self.student.progress, self.ledger)
                    weights = self.weighting.weigh(known, chosen, rows)
                raw, parts = _means(losses, weights)
                loss = self._mixed(selection, losses, raw, parts)
        if self._compass is not None and self._comparing:
            self._comparing = False
            with self.ledger.timing("probe"):
                self.ledger.spend("probe", self._compass.flops(chosen, *batch.shape))
                self._pulls = self._compass(chosen, parts)
        with self.ledger.timing("student"):
            self.student.learn(share * loss)
        return torch.stack([loss.detach(), raw[LABELS], sure, right, *(raw[one.name] for one in chosen)])

    def _thinned(self, batch: Batch, thin: Pick) -> Batch:
        """The examples that the student learns from, picked by a pass of its own over all of them."""
        with torch.no_grad(), self.ledger.timing("student"):
            logits = run(self.student.model, batch, Needs(logits=True)).logits
            assert logits is not None
            return batch.rows(thin(logits, batch.labels).tolist())

    def _mixed(
        self,
        selection: Selection,
        losses: Mapping[str, Tensor],
        raw: Mapping[str, Tensor],
        parts: Mapping[str, Tensor],
    ) -> Tensor:
        """The weighted sum of the terms that are selected, of which `_means` says the rest."""
        # a label loss of weight 0 is left out: its gradient of zeros would let the head's weights decay
        terms = [selection.labels * parts[LABELS]] if selection.labels else []
        for name in selection.chosen:
            weight = self.teacher_weights[self.knowledge[name].teacher] * selection.weights[name]
            terms.append(weight * self._scaled(name, raw[name], parts[name], len(losses[name])))
        return sum(terms[1:], terms[0])

    def _read(self, chosen: Sequence[Knowledge]) -> Needs:
        """What is read of the student."""
        weighting = self.weighting.reads() if self.weighting is not None else Needs()
        return union([Needs(logits=True), weighting, *(one.student_needs for one in chosen)])

    def asked(self, chosen: Sequence[Knowledge]) -> dict[int, Needs]:
        """What is asked of each teacher that has any part in `chosen`, by the teacher's place."""
        places = sorted({one.teacher for one in chosen})
        return {m: union(one.teacher_needs for one in chosen if one.teacher == m) for m in places}

    def blame(self, batches: Iterable[Batch], chosen: Sequence[Knowledge]) -> None:
        """Asks again what was asked in a phase that failed.

        Raises:
            InputError: with the examples whose answers are no numbers, if there are any.
        """
        for batch in batches:
            for m, needs in self.asked(chosen).items():
                answer = self.teachers[m](batch, needs, Ledger())
                for field in needs.fields:
                    bad = ~torch.isfinite(answer[field]).flatten(1).all(1).cpu()
                    if bad.any():
                        raise InputError(not_finite(field.kind, batch.ids[bad].tolist()))

    def price(self, chosen: Sequence[Knowledge], size: int, length: int, *, whole: bool = False) -> float:
        """FLOPs of transferring `chosen` from a padded batch with every answer computed: the price without a cache.

        With `whole`, as if every example were learned from and asked about.
        """
        needs = self._read(chosen)
        scored = 0.0
        if self.thin is not None and not whole:
            scored = self.meter(Needs(logits=True)).forward(size, length)
            size = self.thin.count(size)
        counts = self.weighting.counts(size, chosen) if self.weighting is not None and not whole else {}
        teachers = losses = 0.0
        for count in {counts.get(one.name, size) for one in chosen} - {0}:
            terms = [one for one in chosen if counts.get(one.name, size) == count]
            teachers += sum(self.teachers[m].price(asked, count, length) for m, asked in self.asked(terms).items())
            losses += sum(one.flops(count, length) for one in terms)
        # backward counts as two forward passes
        return scored + 3 * self.meter(needs).forward(size, length) + teachers + losses

    def _scaled(self, name: str, raw: Tensor, loss: Tensor, rows: int) -> Tensor:
        """The loss, which was taken on so many rows, over the mean of the type's first plain losses."""
        if not self.scale_steps:
            return loss
        if self._seen.get(name, 0) < self.scale_steps:
            raw, everywhere = self.student.group.mean(raw, rows)
            if everywhere:  # a pick that came out empty says nothing of the type's size
                self._sums[name] = self._sums.get(name, torch.zeros_like(raw)) + raw
                self._seen[name] = self._seen.get(name, 0) + 1
        if not rows:
            return loss
        # the clamp keeps a loss that starts at 0, as between equal models, from dividing by 0
        return loss / (self._sums[name] / self._seen[name]).clamp_min(1e-6)

    def state_dict(self) -> dict[str, Any]:
        """The student's state, the scales, and what a weighting has learned."""
        state = {"student": self.student.state_dict(), "sums": dict(self._sums), "seen": dict(self._seen)}
        return state | {"weighting": self.weighting.state_dict() if self.weighting is not None else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`.

        Raises:
            ValueError: if it is of another training.
        """
        self.student.load_state_dict(state["student"])
        device = self.student.parameters[0].device  # another process may have sent the state
        sums, seen = state["sums"], state["seen"]
        if not (alike(sums, dict.fromkeys(seen, torch.zeros(()))) and alike(seen, dict.fromkeys(seen, 0))):
            raise ValueError("the scales are those of another training")
        self._sums, self._seen = {name: total.to(device) for name, total in sums.items()}, dict(seen)
        if self.weighting is not None:
            self.weighting.load_state_dict(state["weighting"])


def _means(losses: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Each term's plain mean, without gradient, and its mean under the weights of the examples, with it."""
    raw, parts = {}, {}
    for name, each in losses.items():
        mean = each.mean() if len(each) else 0.0 * losses[LABELS].mean()  # a pick may be empty
        raw[name] = mean.detach()
        parts[name] = (weights[name] * each).mean() if name in weights and len(each) else mean
    return raw, parts


def _covering(batch: Batch, places: set[int]) -> tuple[int, int]:
    """The shape of a batch of the examples at these places."""
    return (len(places), int(batch.lengths[list(places)].max())) if places else (0, 0)


def _by_rows(terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> list[tuple[Tensor | None, list[Knowledge]]]:
    """The terms that are taken on the same rows, with those; None where it is all of them."""
    groups: dict[int, tuple[Tensor | None, list[Knowledge]]] = {}
    for one in terms:
        places = rows.get(one.name)
        groups.setdefault(id(places), (places, []))[1].append(one)
    return list(groups.values())
