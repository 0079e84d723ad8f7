"""Evaluation of students and their teacher on splits, and facts about a setting before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.mdp.episode import Facts
from ackd.models import Meter, StudentFactory, cannot_give
from ackd.numerics import ridge
from ackd.numerics.precision import computing
from ackd.numerics.streams import RngStreams
from ackd.tasks import Split, Task
from ackd.training.measuring import Ask, answers, eval_result
from ackd.training.probe import (
    agreement,
    confidence,
    hearing,
    last_states,
    lead,
    probed,
    reading,
    sampled,
)
from ackd.training.student import Student
from ackd.training.teacher_warnings import warn
from ackd.types import Batch, EvalResult, OutputRequest, Outputs, Teacher


@dataclass
class Remembered:
    """Constant results, computed once and shared by all students of a setting, including forks and cohorts.

    A resumed run repeats the teacher's pass over the reward split but does not count it again, because its restored
    costs include that pass.
    """

    answers: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)  # teacher logits by split
    counted: bool = False  # True if the costs include the teacher's pass over the reward split
    facts: list[Facts | None] = field(default_factory=list)  # empty until computed
    parts: dict[float, Split] = field(default_factory=dict)  # parts of the reward split, by share

    def resume(self, costs: CostTracker) -> None:
        """Reads from restored costs whether the teacher's pass is counted."""
        self.counted |= costs.reward_passes > 0


@dataclass(frozen=True)
class Evaluator:
    """Evaluates students and their reference teacher on splits."""

    task: Task
    student: Student
    reference: Teacher | None  # the teacher to compare with; None if there is none
    remembered: Remembered
    meter: Meter  # FLOPs of the student's passes
    costs: CostTracker
    precision: Precision  # of the student's passes
    device: torch.device
    make_student: StudentFactory  # for the facts before the first step
    epochs: float  # how often a student sees each training example

    def reward_part(self, share: float) -> Split:
        """A fixed, evenly spaced share of the reward split."""
        reward, parts = self.task.reward, self.remembered.parts
        if share not in parts:
            count = max(round(share * len(reward)), 1)
            parts[share] = reward.select(np.arange(count) * len(reward) // count)
        return parts[share]

    def evaluate(self, split: Split, name: str) -> list[EvalResult]:
        """Evaluates each student on a split; `name` identifies the split, and 'reward' is the reward split."""
        part = "reward" if name == "reward" else "report"
        with self.costs.timing(part):
            self.student.model.eval()
            found = self.answers(self._side_by_side, split, part).reshape(len(split), self.student.size, -1)
            if part == "reward":
                self.costs.reward_passes += len(split) / len(self.task.reward)
            theirs = self.compared(split, name)
            return [eval_result(self.task, found[:, i], split, theirs) for i in range(self.student.size)]

    def measure_teacher(self, split: Split, name: str) -> EvalResult:
        """Evaluates the teacher on a split; its logits are computed once."""
        return eval_result(self.task, self._teacher_answers(split, name), split, self.compared(split, name))

    def compared(self, split: Split, name: str) -> NDArray[np.float64] | None:
        """The teacher's logits, [N, C], on the reward split; students are compared with it on no other split.

        None for other splits, without a teacher, and for language models (their logits are not kept).
        """
        if name != "reward" or self.reference is None or self.task.spec.language:
            return None
        return self._teacher_answers(split, name)

    def answers(self, ask: Ask, split: Split, part: str) -> NDArray[np.float64]:
        """Logits on a split (see `measuring.answers`); the FLOPs are added to `part`."""
        found, flops = self._answers(ask, split)
        self.costs.add_flops(part, flops)
        return found

    def represent(self, batch: Batch, teacher: Teacher) -> tuple[list[float], list[float]]:
        """The mean first-token output of the last layer over a batch, for the student and a teacher.

        Raises:
            InputError: if there is no reference teacher.
        """
        if self.reference is None:
            raise InputError("there is no teacher to represent examples: name one")
        self.student.model.eval()
        ours = OutputRequest(cls=frozenset({self.student.model.config.num_hidden_layers - 1}))
        theirs = OutputRequest(cls=frozenset({teacher.shape.layers - 1}))
        with torch.no_grad(), self.costs.timing("agent"):
            both = self._ask(batch, ours, self.costs), teacher(batch, theirs, self.costs)
        mine, other = (next(iter(one.cls.values())).float().mean(0).tolist() for one in both)
        return mine, other

    def probe(self) -> Facts | None:
        """Computes the facts about the setting, with a student initialised from seed 0.

        None without a teacher or a reward split, for language models and sentence encoders, for students without
        readable hidden states, and on all ranks except 0.
        """
        task = self.task
        if self.reference is None or task.spec.language or task.spec.sentences or not len(task.reward):
            return None
        with self.costs.timing("probe"):
            with RngStreams(0, self.device).initialising():
                model = self.make_student().to(self.device).eval()
            needs = last_states(1, of=model.config.num_hidden_layers)
            if cannot_give(model, needs):
                return None
            parts = [sampled(task.train), sampled(task.reward)]
            logits = self._teacher_answers(task.reward, "reward", "probe")
            asks = reading(model, self.meter, self.precision, needs), hearing(self.reference, parts[0], self.device)
            states, theirs = (np.concatenate([self.answers(ask, part, "probe") for part in parts]) for ask in asks)
            if self.student.group.rank:  # rank 0 has the outputs of all ranks
                return None
            classes, labels = logits.shape[1], np.concatenate([part.labels for part in parts])
            predictions = self._probed(states, labels, classes)
            known, features = theirs[:, :classes], theirs[:, classes:]
            return Facts(
                agreement(logits, task.reward.labels),
                confidence(logits),
                agreement(predictions[len(parts[0]) :], parts[1].labels),
                chance=0.0 if classes == 1 else 1 / classes,
                examples_per_parameter=len(task.train) / sum(one.numel() for one in model.parameters()),
                epochs=self.epochs,
                student_lead=lead(predictions, known, labels),
                teacher_lead=lead(self._probed(features, labels, classes), known, labels) if features.size else 0.0,
            )

    def _probed(self, states: NDArray[np.float64], labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
        self.costs.add_flops("probe", ridge.flops(*states.shape))
        return probed(states, labels, classes)

    def remember(self, facts: Facts | None) -> Facts | None:
        """Keeps the facts of the first call and logs a warning if they show a problem."""
        known = self.remembered.facts
        if not known:
            known.append(facts)
            if facts is not None:
                reward = self.task.reward
                theirs = self.remembered.answers.get(("reward", len(reward)))
                warn(facts, theirs, reward.labels, self.task.spec.classes)
        return known[0]

    def _teacher_answers(self, split: Split, name: str, part: str = "") -> NDArray[np.float64]:
        """The reference teacher's logits on a split, computed once.

        Costs go to `part`; if `part` is empty, to "reward" for the reward split and to "report" for others.
        """
        known, key = self.remembered.answers, (name, len(split))
        if key not in known:
            assert self.reference is not None
            known[key], flops = self._answers(self.reference, split)
            if part or name != "reward":
                self.costs.add_flops(part or "report", flops)
            elif not self.remembered.counted:
                self.costs.add_flops("reward", flops)
        return known[key]

    def _ask(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        costs.add_flops("student", self.student.size * self.meter(needs).forward(*batch.shape))
        with computing(self.precision, self.device):
            return self.student.forward(batch, needs)

    def _side_by_side(self, batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        """The logits of all students, [B, N C]; [B, N, n, V] of several language models."""
        outputs = self._ask(batch, needs, costs)
        if not self.student.shape:
            return outputs
        assert outputs.logits is not None
        logits = outputs.logits.movedim(0, 1)
        return Outputs(logits=logits if batch.language else logits.flatten(1))

    def _answers(self, ask: Ask, split: Split) -> tuple[NDArray[np.float64], float]:
        return answers(ask, split, self.device, self._vocabulary, self.student.group)

    @property
    def _vocabulary(self) -> int:
        """The most numbers that a token of a language model is answered with, by all students or the teacher."""
        theirs = self.reference.shape.vocabulary if self.reference is not None else 0
        return max(self.student.size * int(self.student.model.config.vocab_size), theirs)
