"""One student's training, and the plain loop over it without any reinforcement learning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.distiller import Distiller, Prices
from ackd.errors import InputError
from ackd.ledger import Ledger
from ackd.models import Cost, Model, StudentFactory, cost_of, run
from ackd.streams import Streams
from ackd.student import Student
from ackd.tasks import Split, Task
from ackd.teachers import ModelTeacher
from ackd.types import Knowledge, Needs, Report, Selection, Standing, mean


class Order:
    """Training batches without end: each pass over the data in a new order from the run's stream."""

    def __init__(self, examples: int, size: int, generator: np.random.Generator) -> None:
        self.examples, self.size, self.generator = examples, size, generator
        self._left: NDArray[np.int64] = np.empty(0, np.int64)

    def next(self) -> NDArray[np.int64]:
        """The places of the next batch's examples."""
        while len(self._left) < self.size:
            self._left = np.concatenate([self._left, self.generator.permutation(self.examples)])
        batch, self._left = self._left[: self.size], self._left[self.size :]
        return batch

    def state_dict(self) -> dict[str, Any]:
        """What is left of the present pass; the generator's state belongs to its stream."""
        return {"left": self._left.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._left = state["left"].copy()


class Distillation:
    """One student's training from a seed: `reset`, then `advance` until the budget is used.

    Args:
        task: the data.
        teacher: who answers; None trains on labels alone.
        make_student: a new student, drawn from torch's generator.
        make_knowledge: the knowledge types, with new projections, drawn from torch's generator.
        steps: the budget in optimizer steps.
        batch_size: examples in a step.
        lr: peak learning rate.
        scale_steps: steps over which the knowledge losses are brought to one size; 0 leaves them as they are.
        device: where student and teacher are.

    Raises:
        InputError: if a number is not above 0.
    """

    def __init__(
        self,
        task: Task,
        teacher: ModelTeacher | None,
        make_student: StudentFactory,
        make_knowledge: Callable[[], Sequence[Knowledge]] = tuple,
        *,
        steps: int,
        batch_size: int = 32,
        lr: float = 5e-5,
        scale_steps: int = 10,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("steps", steps), ("batch size", batch_size), ("learning rate", lr)):
            if not value > 0:
                raise InputError(f"the {name} must be above 0, got {value}")
        self.task, self.teacher = task, teacher
        self._make_student, self._make_knowledge = make_student, make_knowledge
        self.steps, self.batch_size, self.lr, self.scale_steps = steps, batch_size, lr, scale_steps
        self.device = torch.device(device)
        self._standings: dict[str, Standing] = {}  # the teacher's, by split: it never changes
        self._answers: dict[str, NDArray[np.float64]] = {}
        with Streams(0).initialising():
            probe = make_student()
        self.prices = Prices(cost_of(probe), cost_of(teacher.model) if teacher else Cost(0.0, 0.0, 0.0))
        self.reset(0)

    def reset(self, seed: int) -> None:
        """A new student before its first step; everything random about its training follows from `seed`."""
        self.seed = seed
        self.ledger = Ledger()
        self.streams = Streams(seed, self.device)
        self.order = Order(len(self.task.train), self.batch_size, self.streams.order)
        with self.streams.initialising():
            model = self._make_student().to(self.device)
            knowledge = [one.to(self.device) for one in self._make_knowledge()]
        self.student = Student(model, knowledge, steps=self.steps, lr=self.lr)
        self.distiller = Distiller(
            self.student,
            self.teacher,
            knowledge,
            prices=self.prices,
            ledger=self.ledger,
            scale_steps=self.scale_steps,
        )
        self.steps_done = 0
        self.flops_all = 0.0  # what the steps would have taken with everything transferred

    @property
    def families(self) -> dict[str, str]:
        """The family of each knowledge type by its name."""
        return {name: one.family for name, one in self.distiller.knowledge.items()}

    @property
    def type_prices(self) -> dict[str, float]:
        """FLOPs of a step with only this type, as a share of a step with every type, for each type by its name."""
        shape = (self.batch_size, round(float(self.task.train.lengths.mean())))
        everything = list(self.distiller.knowledge.values())
        price_of_all = sum(self.prices.step(everything, *shape).values())
        return {one.name: sum(self.prices.step([one], *shape).values()) / price_of_all for one in everything}

    def advance(self, selection: Selection, steps: int) -> Report[float]:
        """Takes up to `steps` optimizer steps under one selection, within the budget; one wait for the device.

        Raises:
            ValueError: if the budget is used up.
        """
        reports = []
        everything = list(self.distiller.knowledge.values())
        with self.streams.dropping():
            for _ in range(min(steps, self.steps - self.steps_done)):
                batch = self.task.train.batch(self.order.next()).to(self.device)
                self.flops_all += sum(self.prices.step(everything, *batch.shape).values())
                reports.append(self.distiller.step(batch, selection))
        self.steps_done += len(reports)
        return mean(reports)

    def measure(self, split: Split, name: str) -> Standing:
        """How the student does on a split; `name` tells the splits apart, and 'reward' is the agent's."""
        part = "reward" if name == "reward" else "report"
        with self.ledger.timing(part):
            answers = self._answer(self.student.model, self.prices.student, split, part)
            self.ledger.reward_passes += part == "reward"
            standing = self._standing(answers, split)
            if self.teacher and not self.task.spec.regression:
                same = answers.argmax(1) == self._teacher_answers(split, name).argmax(1)
                standing = replace(standing, agreement=float(same.mean()))
        return standing

    def measure_teacher(self, split: Split, name: str) -> Standing:
        """How the teacher does on a split: one pass, then remembered."""
        if name not in self._standings:
            self._standings[name] = replace(self._standing(self._teacher_answers(split, name), split), agreement=1.0)
        return self._standings[name]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "seed": self.seed,
            "steps_done": self.steps_done,
            "flops_all": self.flops_all,
            "streams": self.streams.state_dict(),
            "order": self.order.state_dict(),
            "distiller": self.distiller.state_dict(),
            "ledger": self.ledger.as_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of a distillation with the same arguments."""
        self.reset(state["seed"])
        self.steps_done, self.flops_all = state["steps_done"], state["flops_all"]
        self.streams.load_state_dict(state["streams"])
        self.order.load_state_dict(state["order"])
        self.distiller.load_state_dict(state["distiller"])
        self.ledger.add(Ledger(**state["ledger"]))

    def fork(self) -> Distillation:
        """An independent copy of the training as it stands; data and teacher, which never change, are shared."""
        twin = copy.copy(self)
        twin.load_state_dict(self.state_dict())
        return twin

    def _teacher_answers(self, split: Split, name: str) -> NDArray[np.float64]:
        assert self.teacher is not None
        if name not in self._answers:
            part = "reward" if name == "reward" else "report"
            self._answers[name] = self._answer(self.teacher.model, self.prices.teacher, split, part)
        return self._answers[name]

    def _answer(self, model: Model, cost: Cost, split: Split, part: str) -> NDArray[np.float64]:
        """[N, C] logits in the split's order, read from the device once."""
        groups = list(split.by_length(256 if self.device.type == "cuda" else 32))  # small ones waste little padding
        outputs = []
        model.eval()
        with torch.no_grad():
            for group in groups:
                batch = split.batch(group).to(self.device)
                self.ledger.spend(part, cost.forward(*batch.shape))
                logits = run(model, batch, Needs(logits=True)).logits
                assert logits is not None
                outputs.append(logits)
        answers = np.empty((len(split), outputs[0].shape[-1]))
        answers[np.concatenate(groups)] = torch.cat(outputs).double().cpu().numpy()
        return answers

    def _standing(self, answers: NDArray[np.float64], split: Split) -> Standing:
        if not np.isfinite(answers).all():
            return Standing(loss=float("nan"), score=float("nan"))
        scores = self.task.measure(answers, split.labels)
        score = scores[self.task.spec.metrics[0]]
        if self.task.spec.regression:
            loss = float(np.square(answers[:, 0] - split.labels).mean())
            return Standing(loss, score, scores)
        log_p = answers - np.logaddexp.reduce(answers, axis=1, keepdims=True)
        loss = -float(log_p[np.arange(len(answers)), split.labels].mean())
        entropy = -float((np.exp(log_p) * log_p).sum(1).mean())
        return Standing(loss, score, scores, uncertainty=entropy / float(np.log(answers.shape[1])))


def distill(
    distillation: Distillation,
    selection: Selection | Callable[[int], Selection],
    *,
    seed: int = 0,
    interval: int = 20,
    on_phase: Callable[[int, Report[float]], None] | None = None,
) -> list[Report[float]]:
    """Trains one student to the end of its budget; the plain loop, without agent, reward or environment.

    Args:
        distillation: what to train; it is reset first, and holds the student afterwards.
        selection: what to transfer, always or as a function of the steps done.
        seed: of the run.
        interval: optimizer steps between two choices.
        on_phase: is told the steps done and what they measured, as for a progress bar.

    Returns:
        The report of each phase.

    Raises:
        FloatingPointError: if the training diverges.

    Example:
        distill(distillation, Selection.of("logits", "hidden"), seed=1)
    """
    distillation.reset(seed)
    reports = []
    while distillation.steps_done < distillation.steps:
        chosen = selection if isinstance(selection, Selection) else selection(distillation.steps_done)
        reports.append(distillation.advance(chosen, interval))
        if not reports[-1].finite:
            raise FloatingPointError(
                f"the training diverged before step {distillation.steps_done}: lower the learning rate"
            )
        if on_phase is not None:
            on_phase(distillation.steps_done, reports[-1])
    return reports
