"""Mutual learning: students that teach each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import Logits
from ackd.models import Meter, StudentFactory, run, shape_of
from ackd.numerics.precision import computing
from ackd.tasks import Split, Task
from ackd.training.distillation import Distillation
from ackd.training.replay import Training, replayable
from ackd.types import Batch, EvalResult, Knowledge, ModelDims, OutputRequest, Outputs, Selection, StepMetrics


class Peer:
    """A student as the teacher of another student; it answers with its current weights.

    Args:
        peers: the trainings of all students.
        place: index of this student.
        dropout: True for train mode, with dropout from the random stream of the learning student; False for eval mode.
    """

    def __init__(self, peers: Sequence[Distillation], place: int, *, dropout: bool = True) -> None:
        self._peers, self.place, self.dropout = peers, place, dropout
        self._meter: Meter | None = None

    @property
    def training(self) -> Distillation:
        """This peer's own training."""
        return self._peers[self.place]

    @property
    def shape(self) -> ModelDims:
        """The model's sizes."""
        return shape_of(self.training.student.model)

    @property
    def fingerprint(self) -> str:
        """Differs in every process and after every step, so that changing outputs are never cached."""
        return f"living model {id(self)} after {self.training.steps_done} steps"

    def __call__(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """Computes the requested outputs, without gradients."""
        model, size = self.training.student.model, batch.shape[0]
        if model.training != self.dropout:
            model.train(self.dropout)
        with costs.timing("teacher"), torch.no_grad(), computing(self.training.precision, self.training.device):
            outputs = run(model, batch, needs)
        costs.add_flops("teacher", self.flops(needs, *batch.shape))
        costs.move("teacher", sum(outputs[field].nbytes for field in needs.fields))
        costs.teacher_queries += size
        return outputs

    def flops(self, needs: OutputRequest, size: int, length: int) -> float:
        """FLOPs of a forward pass for a padded batch."""
        if self._meter is None:
            self._meter = Meter(self.training.student.model)
        return self._meter(needs).forward(size, length)


class MutualLearning(Training):
    """M students that learn from the labels and from each other; each is a `Distillation` on the same batches.

        L_k = CE(z_k, y) + 1/(M - 1) sum_{j != k} KL(p_j || p_k),  batchmean, without temperature

    The students take each step in turn and use the others' current weights: earlier students have already taken the
    step, as in the paper's algorithm. No gradient flows from one student to another.

    Args:
        task: the data.
        make_students: one factory per student. The first student draws weights and dropout from the run's seed, the
            others from derived seeds.
        steps: optimizer steps of each student.
        dropout: whether peers answer in train mode, as in the paper, or in eval mode.
        **setting: options of each `Distillation`, such as `batch_size`, `lr`, `device`.

    Raises:
        InputError: for fewer than two students, or students that would always stay equal.

    References:
        Zhang, Xiang, Hospedales, Lu, Deep Mutual Learning, 2018, https://arxiv.org/abs/1706.00384
    """

    def __init__(
        self, task: Task, make_students: Sequence[StudentFactory], *, steps: int, dropout: bool = True, **setting: Any
    ) -> None:
        count = len(make_students)
        if count < 2:
            raise InputError(f"{count} student{'s' * (count != 1)} cannot learn from each other: name at least 2")
        self.steps, self.size = steps, count
        self.peers: list[Distillation] = []
        for k, make in enumerate(make_students):
            others = [Peer(self.peers, j, dropout=dropout) for j in range(count) if j != k]

            def make_knowledge(others: Sequence[Peer] = others) -> list[Knowledge]:
                losses: list[Knowledge] = []
                for m, one in enumerate(others):
                    losses.append(Logits(temperature=1.0, name=f"peer-{one.place + 1}"))
                    losses[-1].teacher = m
                return losses

            own = {"steps": steps, "scale_steps": 0, **setting}
            self.peers.append(Distillation(task, others, make, make_knowledge, **own))
            self.peers[-1].reference = None  # peers change, so there is no reference
        self.selections = [Selection(dict.fromkeys(one.distiller.knowledge, 1 / (count - 1))) for one in self.peers]
        self._begin(0)
        if self._alike():
            raise InputError(
                "two students begin with the same weights and have no dropout, so they would stay equal: name "
                "different ones, or a JSON config, whose weights are drawn for each"
            )

    @replayable("reset")
    def reset(self, seed: int) -> None:
        """Makes new students; `seed` determines the batch order for all of them."""
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        # not seed + k, because runs with neighbouring seeds would then share students
        derived = [int(one.generate_state(1)[0]) for one in np.random.SeedSequence(seed).spawn(len(self.peers))]
        for one, own in zip(self.peers, [seed, *derived[1:]], strict=True):
            one.reset(own)
        first = self.peers[0].trainer.streams.order.bit_generator.state  # still unused
        for one in self.peers[1:]:
            one.trainer.streams.order.bit_generator.state = first

    def _alike(self) -> bool:
        """Whether two students have equal weights and no dropout, so they would stay equal."""
        states = [one.student.model.state_dict() for one in self.peers]
        still = [
            not any(part.p > 0 for part in one.student.model.modules() if isinstance(part, nn.Dropout))
            for one in self.peers
        ]
        return any(
            still[k]
            and still[j]
            and states[k].keys() == states[j].keys()
            and all(torch.equal(value, states[j][name]) for name, value in states[k].items())
            for k in range(len(states))
            for j in range(k)
        )

    @property
    def steps_done(self) -> int:
        """Optimizer steps of each student so far."""
        return self.peers[0].steps_done

    @property
    def costs(self) -> CostTracker:
        """The costs of all students; one step of all students counts as M."""
        total = CostTracker()
        for one in self.peers:
            total.add(one.costs)
        return total

    @replayable("advance", each=True)
    def advance(self, steps: int) -> list[list[StepMetrics[float]]]:
        """Takes up to `steps` steps of each student in turn; returns each student's report for each step.

        Raises:
            ValueError: if the budget is used up.
            FloatingPointError: if a training diverges.
        """
        if min(steps, self.steps - self.steps_done) < 1:
            raise ValueError(f"there is no step to take: {self.steps_done} of {self.steps} are done")
        done = []
        for _ in range(min(steps, self.steps - self.steps_done)):
            reports = []
            for one, selection in zip(self.peers, self.selections, strict=True):
                try:
                    reports.append(one.advance(selection, 1))
                except InputError as error:  # a peer's outputs are not finite
                    raise FloatingPointError(self._diverged()) from error
                if not reports[-1].finite:
                    raise FloatingPointError(self._diverged())
            done.append(reports)
        return done

    def _diverged(self) -> str:
        return f"the training diverged after {self.steps_done} steps: lower the learning rate"

    @replayable("measure", each=True)
    def evaluate(self, split: Split, name: str) -> list[EvalResult]:
        """Evaluates each student on a split, like `Distillation.evaluate`."""
        return [one.evaluate(split, name) for one in self.peers]

    def counters(self) -> dict[str, Any]:
        """The counters that are read between two calls."""
        return {"peers": [one.counters() for one in self.peers]}

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Sets the counters."""
        for one, own in zip(self.peers, counters["peers"], strict=True):
            one.load_counters(own)

    def state_dict(self) -> dict[str, Any]:
        """The complete state of the training."""
        return {"peers": [one.state_dict() for one in self.peers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`."""
        for one, own in zip(self.peers, state["peers"], strict=True):
            one.load_state_dict(own)
