"""Many students at once: each batch and each teacher's answer serves them all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from ackd.cohort.mixture import Mixture, Scales
from ackd.cohort.stacked import Stacked
from ackd.errors import InputError
from ackd.knowledge import assess, label_loss
from ackd.ledger import Ledger
from ackd.mdp.episode import Facts
from ackd.models import Model, run
from ackd.numerics.precision import computing
from ackd.tasks import Split
from ackd.teachers import drain
from ackd.training.loop import Distillation
from ackd.training.measuring import judge
from ackd.training.verbs import Training, verb
from ackd.types import LABELS, Batch, Knowledge, Needs, Outputs, Report, Selection, Standing, union

Weights: TypeAlias = dict[str, Tensor]


class Cohort(Training):
    """N students, each as a `Distillation` of its own would train it on the same batches, in one batched step.

    Each has its own initialisation, selection, dropout masks, scales and moments. What anybody selects is computed for
    everybody, and weighted by each one's own weight. The students' passes are not compiled.

    The ledger counts a teacher's answer once a batch, and the students' passes and losses N times; a step and a pass
    over a split count as one.

    Args:
        distillation: what to train, with which teachers and numbers; it is left alone.
        students: N.

    Raises:
        InputError: if there is no student, the students pick or weigh examples, or gradients are to be compared.
    """

    def __init__(self, distillation: Distillation, students: int) -> None:
        if students < 1:
            raise InputError(f"a cohort needs at least 1 student, got {students}")
        if distillation.picks:
            raise InputError(
                "students of a cohort learn from the same examples, and here each picks or weighs its own: train them "
                "one by one (leave --students away)"
            )
        if distillation.cosines:
            raise InputError(
                "the gradients of a cohort's students are not compared: leave --gradient-cosines or --students away"
            )
        self.distillation, self.size = distillation, students
        self._known_prices: dict[tuple[tuple[str, ...], tuple[int, int]], float] = {}
        self._reached: dict[str, frozenset[int]] = {}  # by term: the places of the parameters that it reaches
        self._begin(range(students))

    @verb("reset")
    def reset(self, seeds: Sequence[int]) -> None:
        """New students before their first step, one a seed; order and dropout follow from the first seed.

        Raises:
            InputError: if there are not as many seeds as students.
        """
        self._begin(seeds)

    def _begin(self, seeds: Sequence[int]) -> None:
        self._check(seeds, "seed")
        self.seeds = tuple(int(seed) for seed in seeds)
        alone = [copy.copy(self.distillation) for _ in seeds]
        for one, seed in zip(alone, self.seeds, strict=True):
            one.journal, one.compiled = None, False
            one.reset(seed)
        self._first = alone[0]  # whose order, dropout stream, ledger and teachers are the cohort's
        self.ledger = self._first.ledger
        self.stacked = Stacked([one.student for one in alone])
        self.steps_done = 0
        self.prices = [0.0] * self.size  # FLOPs of what each student alone would have transferred, answers computed
        self.price_of_all = 0.0  # and of transferring everything, for one student
        self._scales = Scales(self._first.scale_steps, self.size, self._first.device)
        self._lost: set[int] = set()  # students that diverged, for which the teachers have been looked at

    def _check(self, given: Sequence[Any], what: str) -> None:
        if len(given) != self.size:
            raise InputError(f"a cohort of {self.size} needs one {what} a student, got {len(given)}")

    @property
    def steps(self) -> int:
        """The budget in optimizer steps."""
        return self.distillation.steps

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step as a share of its peak."""
        return self.distillation.recipe.rate(self.steps_done, self.steps)

    def model(self, student: int) -> Model:
        """One student's model, for saving; it shares the cohort's weights, so later steps change it."""
        return self.stacked.students[student].model

    def companions(self, student: int) -> torch.nn.ModuleList:
        """One student's projections, in the order of the knowledge types; they share the cohort's weights likewise."""
        return self.stacked.students[student].companions

    @verb("advance", each=True)
    def advance(self, selections: Sequence[Selection], steps: int) -> list[Report[float]]:
        """Takes up to `steps` optimizer steps, each student under its own selection; one wait for the device.

        Raises:
            ValueError: if the budget is used up.
            InputError: if there are not as many selections as students, or a teacher answered NaN or infinity.
            KeyError: if a selection names a type that there is not.
        """
        self._check(selections, "selection")
        if min(steps, self.steps - self.steps_done) < 1:
            raise ValueError(f"there is no step to take: {self.steps_done} of {self.steps} are done")
        first = self._first
        mixture = Mixture.of(selections, first.distiller, first.device)
        figures, asked = [], []
        with first.streams.dropping():
            for _ in range(min(steps, self.steps - self.steps_done)):
                places = [first.order.next() for _ in range(first.accumulate)]
                batches = [first.task.train.batch(those).to(first.device) for those in places]
                self._count(batches, selections)
                figures.append(self._step(batches, mixture))
                asked += places
        self.steps_done += len(figures)
        reports = _reports(torch.stack(figures), mixture.names, selections)
        drain(first.teachers, self.ledger)
        lost = {i for i, report in enumerate(reports) if not report.finite}
        if lost - self._lost:
            theirs = {name for i in lost - self._lost for name in selections[i].chosen}
            chosen = [one for name, one in first.distiller.knowledge.items() if name in theirs]
            first.distiller.blame((first.task.train.batch(those).to(first.device) for those in asked), chosen)
        self._lost |= lost
        return reports

    @verb("inherit")
    def inherit(self, parents: Sequence[int]) -> None:
        """Makes each student what another is now, or itself: weights, moments, scales, and what it has cost so far.

        Args:
            parents: the place of each one's parent; a student that is its own stays as it is.

        Raises:
            InputError: if there are not as many parents as students.
            IndexError: if there is no such student.
        """
        self._check(parents, "parent")
        if wrong := [parent for parent in parents if not 0 <= parent < self.size]:
            raise IndexError(f"there is no student {wrong[0]} among {self.size}")
        self.stacked.inherit(parents)
        self._scales.inherit(parents)
        self.prices = [self.prices[parent] for parent in parents]
        self._lost = {i for i, parent in enumerate(parents) if parent in self._lost}

    def _step(self, batches: Sequence[Batch], mixture: Mixture) -> Tensor:
        """One optimizer step on the mean loss of the batches, [figures, N], on the device."""
        if not self.model(0).training:  # the call goes through every module
            self.model(0).train()
        figures = torch.stack([self._learn(batch, mixture, 1 / len(batches)) for batch in batches]).mean(0)
        with self.ledger.timing("student"):
            norm = self.stacked.update(mixture.moving(self._reached, len(self.stacked.parameters)))
        self.ledger.steps += 1
        return torch.cat([figures[:2], norm[None], figures[2:]])

    def _learn(self, batch: Batch, mixture: Mixture, share: float) -> Tensor:
        """Adds the gradients of one batch's `share` of the step; [loss, labels, uncertainty, accuracy, *losses]."""
        distiller = self._first.distiller
        chosen = [distiller.knowledge[name] for name in mixture.names]
        needs = union([Needs(logits=True), *(one.student_needs for one in chosen)])
        # backward counts as two forward passes
        forward = self.size * distiller.meter(needs).forward(*batch.shape)
        self.ledger.spend("student", 3 * forward)
        self.ledger.spend("knowledge", self.size * sum(one.flops(*batch.shape) for one in chosen))
        with computing(self._first.precision, batch.mask.device):
            asked, taught = distiller.asked(chosen), self.ledger.flops["teacher"]
            answers = {m: self._first.teachers[m](batch, those, self.ledger) for m, those in asked.items()}
            self.ledger.account(forward, self.ledger.flops["teacher"] - taught)
            with self.ledger.timing("student"):
                labels, sure, right, *losses = self._forward(batch, needs, chosen, answers)
            with self.ledger.timing("knowledge"):
                terms = {LABELS: labels, **dict(zip(mixture.names, losses, strict=True))}
                loss = mixture.total(terms, self._scales)
        with self.ledger.timing("student"):
            for term in mixture.chosen if mixture.table is not None else ():
                if term not in self._reached:
                    self._reached[term] = self.stacked.reached(terms[term])
            (share * loss).sum().backward()  # no student has a part in another's loss, so each gets its own gradient
        return torch.stack([one.detach() for one in (loss, labels, sure, right, *losses)])

    def _forward(
        self, batch: Batch, needs: Needs, chosen: Sequence[Knowledge], answers: Mapping[int, Outputs]
    ) -> Sequence[Tensor]:
        """Label loss, uncertainty, accuracy and the chosen types' losses, [N] each."""
        places = {name: place for place, name in enumerate(self._first.distiller.knowledge)}

        def one(weights: Weights, companions: Sequence[Weights]) -> Sequence[Tensor]:
            outputs = run(self.model(0), batch, needs, weights, stacked=self.size > 1)
            assert outputs.logits is not None
            with self.ledger.timing("knowledge"):
                losses = [
                    functional_call(knowledge, theirs, (outputs, answers[knowledge.teacher], batch)).mean()
                    for knowledge, theirs in zip(chosen, companions, strict=True)
                ]
            return label_loss(outputs.logits, batch.labels).mean(), *assess(outputs.logits, batch.labels), *losses

        return self._each(one, [self.stacked.companions[places[knowledge.name]] for knowledge in chosen])

    def _each(
        self,
        one: Callable[[Weights, Sequence[Weights]], Sequence[Tensor]],
        companions: Sequence[Weights] = (),
    ) -> Sequence[Tensor]:
        """What `one` says of each student's weights, [N, ...]."""
        weights = self.stacked.model
        if self.size > 1:
            together: Sequence[Tensor] = torch.vmap(one, randomness="different")(weights, companions)
            return together
        # as it is, so that a cohort of one has the very bits of a single student
        alone, *theirs = ({name: value.squeeze(0) for name, value in those.items()} for those in (weights, *companions))
        return [value.unsqueeze(0) for value in one(alone, theirs)]

    def _count(self, batches: Sequence[Batch], selections: Sequence[Selection]) -> None:
        """Adds what each student alone would have paid for these batches."""
        everything = tuple(self._first.distiller.knowledge)
        for i, selection in enumerate(selections):
            self.prices[i] += sum(self._price(selection.chosen, batch.shape) for batch in batches)
        self.price_of_all += sum(self._price(everything, batch.shape) for batch in batches)

    def _price(self, names: tuple[str, ...], shape: tuple[int, int]) -> float:
        if (names, shape) not in self._known_prices:
            distiller = self._first.distiller
            self._known_prices[names, shape] = distiller.price([distiller.knowledge[name] for name in names], *shape)
        return self._known_prices[names, shape]

    @verb("measure", each=True)
    def measure(self, split: Split, name: str) -> list[Standing]:
        """How each student does on a split; `name` tells the splits apart, and 'reward' is the agent's."""
        part = "reward" if name == "reward" else "report"
        with self.ledger.timing(part):
            self.model(0).eval()
            answers = self._first.answer(self._ask, split, part).reshape(len(split), self.size, -1)
            if part == "reward":
                self.ledger.reward_passes += len(split) / len(self._first.task.reward)
            theirs = self._first.compared(split, name)
            return [judge(self._first.task, answers[:, i], split, theirs) for i in range(self.size)]

    def _ask(self, batch: Batch, needs: Needs, ledger: Ledger) -> Outputs:
        """The students' logits side by side, [B, N C]."""
        ledger.spend("student", self.size * self._first.distiller.meter(needs).forward(*batch.shape))

        def one(weights: Weights, companions: Sequence[Weights]) -> Sequence[Tensor]:
            logits = run(self.model(0), batch, needs, weights, stacked=self.size > 1).logits
            assert logits is not None
            return (logits,)

        with computing(self._first.precision, self._first.device):
            (logits,) = self._each(one)
        return Outputs(logits=logits.movedim(0, 1).flatten(1))

    @verb("measure_teacher")
    def measure_teacher(self, split: Split, name: str) -> Standing:
        """How the teacher does on a split: one pass, then remembered."""
        return self._first.measure_teacher(split, name)

    def facts(self) -> Facts | None:
        """What is known of the setting before the first step, as its distillation has it."""
        return self._first.remember(self.inspect())

    @verb("inspect")
    def inspect(self) -> Facts | None:
        """The facts, asked about if nobody has."""
        return self._first.inspect()

    def counters(self) -> dict[str, Any]:
        """The plain numbers that are read between two calls."""
        return {
            "seeds": list(self.seeds),
            "steps_done": self.steps_done,
            "prices": list(self.prices),
            "price_of_all": self.price_of_all,
            "ledger": self.ledger.as_dict(),
        }

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Sets them.

        Raises:
            ValueError: if they are of more steps than there are, or of another number of students.
        """
        if not len(counters["seeds"]) == len(counters["prices"]) == self.size:
            raise ValueError(f"it has counted for other students than these {self.size}")
        if not 0 <= counters["steps_done"] <= self.steps:
            raise ValueError(f"it has taken {counters['steps_done']} of {self.steps} steps")
        self.seeds, self.steps_done = tuple(counters["seeds"]), counters["steps_done"]
        self.prices, self.price_of_all = list(counters["prices"]), counters["price_of_all"]
        self.ledger = self._first.ledger = Ledger(**counters["ledger"])
        self._first.remembered.resume(self.ledger)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors, numbers and names in dicts and lists."""
        return {
            "counters": self.counters(),
            "streams": self._first.streams.state_dict(),
            "order": self._first.order.state_dict(),
            "students": self.stacked.state_dict(),
            "scales": self._scales.state_dict(),
            "lost": sorted(self._lost),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of a cohort of as many students with the same arguments."""
        self._begin(state["counters"]["seeds"])
        self.load_counters(copy.deepcopy(state["counters"]))
        self._first.streams.load_state_dict(state["streams"])
        self._first.order.load_state_dict(state["order"])
        self.stacked.load_state_dict(state["students"])
        self._scales.load_state_dict(state["scales"])
        self._lost = set(state["lost"])


def _reports(figures: Tensor, names: Sequence[str], selections: Sequence[Selection]) -> list[Report[float]]:
    """The mean over the steps of [steps, figures, N], read from the device in a single transfer."""
    reports = []
    for selection, of_one in zip(selections, figures.double().mean(0).T.tolist(), strict=True):
        loss, labels, norm, uncertainty, accuracy, *losses = of_one
        by_name = dict(zip(names, losses, strict=True))
        chosen = {name: by_name[name] for name in selection.chosen}
        reports.append(Report(loss, labels, norm, uncertainty, accuracy, chosen))
    return reports
