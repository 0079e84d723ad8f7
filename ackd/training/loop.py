"""One student's training, and the plain loop over it without any reinforcement learning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd.errors import InputError
from ackd.ledger import Ledger
from ackd.mdp.episode import Facts
from ackd.models import Meter, StudentFactory, cannot_give, run
from ackd.numerics.precision import Precision, computing
from ackd.numerics.streams import Streams
from ackd.stages import Stage, check_stages, stage_at
from ackd.tasks import Split, Task
from ackd.teachers import LabelTeacher, drain, uncached
from ackd.training.distiller import Distiller
from ackd.training.measuring import Ask, Remembered, answers, judge
from ackd.training.order import Order
from ackd.training.probe import agreement, confidence, fit_flops, last_states, probed, reading, sampled, warn
from ackd.training.recipe import Recipe
from ackd.training.student import DEFAULT, Student
from ackd.training.verbs import Training, verb
from ackd.types import LABELS, Batch, Knowledge, Needs, Outputs, Report, Selection, Standing, Teacher, mean
from ackd.weighting.scores import Pick
from ackd.weighting.weighting import Weighting

LARGEST_BATCH = 2**16  # examples


class Distillation(Training):
    """One student's training from a seed: `reset`, then `advance` until the budget is used.

    Args:
        task: the data.
        teachers: who answers; none trains on labels alone. Rewards and reports compare with the first that
            does not go by the labels, if there is one.
        make_student: a new student, drawn from torch's generator.
        make_knowledge: the knowledge types, with new projections, drawn from torch's generator.
        stages: of a published method, what it transfers when; none if the selection is left open.
        steps: the budget in optimizer steps.
        batch_size: examples in a batch.
        accumulate: batches whose gradients make one optimizer step.
        lr: peak learning rate.
        recipe: the rest of how a student learns.
        teacher_weights: what each teacher's losses count; 1 if not given.
        scale_steps: batches over which the knowledge losses are brought to one size; 0 leaves them as they are.
        make_weighting: which examples each loss is taken on, and how much each counts, anew for each student, drawn
            from torch's generator; all of them, each 1, if None.
        thin: the part of each batch that the student learns from at all; all of it if None.
        prepared: what was spent before the first step, as on choosing examples; the ledger of every student has it.
        device: where student and teachers are.
        precision: of the student's passes.
        compiled: compile the student's passes.
        cosines: compare the gradients of types and labels at the first step of each `advance`.

    Raises:
        InputError: if a number is not above 0, or gradients cannot be compared.
    """

    def __init__(
        self,
        task: Task,
        teachers: Sequence[Teacher],
        make_student: StudentFactory,
        make_knowledge: Callable[[], Sequence[Knowledge]] = tuple,
        *,
        stages: Sequence[Stage] = (),
        steps: int,
        batch_size: int = 32,
        accumulate: int = 1,
        lr: float = 5e-5,
        recipe: Recipe = DEFAULT,
        teacher_weights: Sequence[float] = (),
        scale_steps: int = 10,
        make_weighting: Callable[[], Weighting | None] | None = None,
        thin: Pick | None = None,
        prepared: Ledger | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        compiled: bool = False,
        cosines: bool = False,
    ) -> None:
        numbers = {"steps": steps, "batch size": batch_size, "batches of a step": accumulate, "learning rate": lr}
        for name, value in numbers.items():
            if not value > 0:
                raise InputError(f"the {name} must be above 0, got {value}")
        if batch_size > LARGEST_BATCH:
            raise InputError(f"the batch size must be at most {LARGEST_BATCH}, got {batch_size}")
        if cosines and compiled:
            raise InputError("compiled passes keep nothing to compare gradients with: leave one of the two away")
        self.cosines = cosines
        self.task, self.teachers = task, tuple(teachers)
        # whose standing rewards and reports compare with; it is asked about splits that no cache knows
        asked = [uncached(one) for one in self.teachers]
        self.reference = next((one for one in asked if not isinstance(one, LabelTeacher)), None)
        self._make_student, self._make_knowledge = make_student, make_knowledge
        self.stages = tuple(stages)
        self.steps, self.batch_size, self.accumulate = steps, batch_size, accumulate
        self.lr, self.recipe = lr, recipe
        self.teacher_weights, self.scale_steps = teacher_weights, scale_steps
        self._make_weighting, self.thin = make_weighting, thin
        self.prepared = prepared or Ledger()
        self.device, self.precision, self.compiled = torch.device(device), precision, compiled
        self._parts = {1.0: task.reward}  # of the reward split
        self.remembered = Remembered()  # of the reference teacher
        self._facts: list[Facts | None] = []  # empty until somebody asks; shared by forks and cohorts
        with Streams(0).initialising():
            self._meter = Meter(make_student())
        self._begin(0)

    @verb("reset")
    def reset(self, seed: int) -> None:
        """A new student before its first step; everything random about its training follows from `seed`."""
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        self.seed = seed
        self.ledger = Ledger()
        self.ledger.add(self.prepared)
        self.streams = Streams(seed, self.device, self.group.rank)
        self.order = Order(self.task.train.lengths, self.batch_size, self.streams.order)
        with self.streams.initialising():
            model = self._make_student().to(self.device)
            knowledge = [one.to(self.device) for one in self._make_knowledge()]
            weighting = self._make_weighting() if self._make_weighting is not None else None
        self.student = Student(
            model,
            knowledge,
            steps=self.steps,
            lr=self.lr,
            recipe=self.recipe,
            compiled=self.compiled,
            group=self.group,
        )
        self.distiller = Distiller(
            self.student,
            self.teachers,
            knowledge,
            meter=self._meter,
            ledger=self.ledger,
            teacher_weights=self.teacher_weights,
            scale_steps=self.scale_steps,
            weighting=weighting,
            thin=self.thin,
            precision=self.precision,
            cosines=self.cosines,
        )
        self.steps_done = 0
        self._last = np.arange(min(self.batch_size, len(self.task.train)))  # the places learned from last
        self.price = 0.0  # FLOPs of what was transferred, had every answer been computed
        self.price_of_all = 0.0  # and of transferring everything

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step as a share of its peak."""
        return self.recipe.rate(self.steps_done, self.steps)

    def reward_part(self, share: float) -> Split:
        """That share of the reward split: always the same examples, evenly spread over it."""
        if share not in self._parts:
            reward = self.task.reward
            count = max(round(share * len(reward)), 1)
            self._parts[share] = reward.select(np.arange(count) * len(reward) // count)
        return self._parts[share]

    @property
    def picks(self) -> bool:
        """Whether a student learns from examples of its own choice, or weighs them by itself."""
        return self.thin is not None or self._make_weighting is not None

    @property
    def families(self) -> dict[str, str]:
        """The family of each knowledge type by its name."""
        return {name: one.family for name, one in self.distiller.knowledge.items()}

    def staged(self, steps_done: int) -> Selection:
        """What the stages select after so many steps, as `distill` takes it."""
        return self.stages[stage_at(self.stages, steps_done / self.steps)].selection

    @property
    def type_prices(self) -> dict[str, float]:
        """FLOPs of a step with only this type, as a share of a step with every type; of `LABELS`, with no type."""
        shape = (self.batch_size, round(float(self.task.train.lengths.mean())))
        everything = list(self.distiller.knowledge.values())
        price_of_all = self.distiller.price(everything, *shape, whole=True)
        alone = {LABELS: self.distiller.price([], *shape) / price_of_all}
        return alone | {one.name: self.distiller.price([one], *shape) / price_of_all for one in everything}

    @verb("advance")
    def advance(self, selection: Selection, steps: int) -> Report[float]:
        """Takes up to `steps` optimizer steps under one selection, within the budget; one wait for the device.

        Raises:
            ValueError: if the budget is used up.
            InputError: if a teacher answered NaN or infinity.
        """
        reports: list[Report[torch.Tensor]] = []
        asked = []
        everything = list(self.distiller.knowledge.values())
        chosen = [self.distiller.knowledge[name] for name in selection.chosen]
        self.distiller.begin_phase()
        with self.streams.dropping():
            for _ in range(min(steps, self.steps - self.steps_done)):
                drawn = [self.order.next() for _ in range(self.accumulate)]
                places = [self.group.share(those) for those in drawn]
                batches = [self.task.train.batch(those).to(self.device) for those in places]
                self.price += sum(self.distiller.price(chosen, *batch.shape) for batch in batches)
                self.price_of_all += sum(
                    self.distiller.price(everything, *batch.shape, whole=True) for batch in batches
                )
                reports.append(self.distiller.step(batches, selection))
                asked += places
                self._last = drawn[-1]
        self.steps_done += len(reports)
        shares = self.group.gather(mean(reports))
        columns = zip(*(share.numbers for share in shares), strict=True)
        report = shares[0].of(sum(column) / len(column) for column in columns)
        drain(self.teachers, self.ledger)
        if not report.finite:
            self.distiller.blame((self.task.train.batch(places).to(self.device) for places in asked), chosen)
        return report

    @verb("measure")
    def measure(self, split: Split, name: str) -> Standing:
        """How the student does on a split; `name` tells the splits apart, and 'reward' is the agent's."""
        part = "reward" if name == "reward" else "report"
        with self.ledger.timing(part):
            self.student.model.eval()
            if part == "reward":
                self.ledger.reward_passes += len(split) / len(self.task.reward)
            return judge(self.task, self.answer(self._ask_student, split, part), split, self.compared(split, name))

    @verb("measure_teacher")
    def measure_teacher(self, split: Split, name: str) -> Standing:
        """How the teacher does on a split: one pass, then remembered."""
        return judge(self.task, self._teacher_answers(split, name), split, self.compared(split, name))

    def compared(self, split: Split, name: str) -> NDArray[np.float64] | None:
        """The teacher's answers, [N, C], to a split on which students are compared with it: the reward split alone.

        None without a teacher, and for language models, whose logits are not kept.
        """
        if name != "reward" or self.reference is None or self.task.spec.language:
            return None
        return self._teacher_answers(split, name)

    def _teacher_answers(self, split: Split, name: str, part: str = "") -> NDArray[np.float64]:
        """The reference teacher's answers to a split, asked for once; `part` pays, or else what the name says."""
        known, key = self.remembered.answers, (name, len(split))
        if key not in known:
            assert self.reference is not None
            known[key], flops = self._answers(self.reference, split)
            if part or name != "reward":
                self.ledger.spend(part or "report", flops)
            elif not self.remembered.counted:
                self.ledger.spend("reward", flops)
        return known[key]

    def facts(self) -> Facts | None:
        """What is known of the setting before the first step: asked about once, then remembered, forks included.

        None without a teacher, for a language model, and for a student that shows no states.
        """
        return self.remember(self.inspect())

    def remember(self, facts: Facts | None) -> Facts | None:
        """The facts, which are warned of where that is due, as they were when they were first told."""
        if not self._facts:
            self._facts.append(facts)
            if facts is not None:
                reward = self.task.reward
                theirs = self.remembered.answers.get(("reward", len(reward)))
                warn(facts, theirs, reward.labels, self.task.spec.classes)
        return self._facts[0]

    @verb("inspect", led=False)
    def inspect(self) -> Facts | None:
        """The facts, asked about if nobody has."""
        return self._facts[0] if self._facts else self.probe()

    @verb("probe", kept=False)
    def probe(self) -> Facts | None:
        """The facts, asked about anew, of the student that seed 0 initialises: every seed has the same."""
        task = self.task
        if self.reference is None or task.spec.language:
            return None
        with self.ledger.timing("probe"):
            with Streams(0, self.device).initialising():
                model = self._make_student().to(self.device).eval()
            if cannot_give(model, last_states(model)):
                return None
            ask, sample = reading(model, self._meter, self.precision), sampled(task.train)
            seen, unseen = (self.answer(ask, split, "probe") for split in (sample, task.reward))
            theirs = self._teacher_answers(task.reward, "reward", "probe")
            if self.group.rank:  # the first one has all of their answers
                return None
            self.ledger.spend("probe", fit_flops(*seen.shape))
            classes = theirs.shape[1]
            return Facts(
                agreement(theirs, task.reward.labels),
                confidence(theirs),
                agreement(probed(seen, sample.labels, unseen, classes), task.reward.labels),
                chance=0.0 if classes == 1 else 1 / classes,
                examples_per_parameter=len(task.train) / sum(one.numel() for one in model.parameters()),
                epochs=self.steps * self.batch_size * self.accumulate / len(task.train),
            )

    @verb("represent", led=False)
    def represent(self) -> tuple[list[float], list[float]]:
        """The mean first-token output of the student's and the (first) teacher's last layer, over the last batch.

        Before the first step that is the first batch of the training data.

        Raises:
            InputError: if there is no teacher.
        """
        if self.reference is None:
            raise InputError("there is no teacher to represent examples: name one")
        batch = self.task.train.batch(self._last).to(self.device)
        self.student.model.eval()
        student = Needs(cls=frozenset({self.student.model.config.num_hidden_layers - 1}))
        teacher = Needs(cls=frozenset({self.teachers[0].shape.layers - 1}))
        with torch.no_grad(), self.ledger.timing("agent"):
            answers = (self._ask_student(batch, student, self.ledger), self.teachers[0](batch, teacher, self.ledger))
        ours, theirs = (next(iter(answer.cls.values())).float().mean(0).tolist() for answer in answers)
        return ours, theirs

    def counters(self) -> dict[str, Any]:
        """The plain numbers that are read between two calls."""
        return {
            "seed": self.seed,
            "steps_done": self.steps_done,
            "price": self.price,
            "price_of_all": self.price_of_all,
            "ledger": self.ledger.as_dict(),
        }

    def load_counters(self, counters: dict[str, Any]) -> None:
        """Sets them.

        Raises:
            ValueError: if they are of more steps than there are.
        """
        if not 0 <= counters["steps_done"] <= self.steps:
            raise ValueError(f"it has taken {counters['steps_done']} of {self.steps} steps")
        self.seed, self.steps_done = counters["seed"], counters["steps_done"]
        self.price, self.price_of_all = counters["price"], counters["price_of_all"]
        self.ledger = self.distiller.ledger = Ledger(**counters["ledger"])
        self.remembered.resume(self.ledger)

    def settle(self) -> None:
        """Adds what the other processes counted to the counts of the first one."""
        counted = self.group.gather((self.ledger, self.price, self.price_of_all))
        if self.group.rank:
            self._count_anew()
            return
        for ledger, price, price_of_all in counted[1:]:
            self.ledger.add(replace(ledger, steps=0, reward_passes=0.0))  # these they take together
            self.price += price
            self.price_of_all += price_of_all

    def _count_anew(self) -> None:
        self.ledger = self.distiller.ledger = Ledger()
        self.price = self.price_of_all = 0.0

    @verb("state_dict", kept=False)
    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors, numbers and names in dicts and lists."""
        state: dict[str, Any] = {
            "counters": self.counters(),
            "streams": self.streams.state_dict(),
            "order": self.order.state_dict(),
            "last": torch.from_numpy(self._last),
            "distiller": self.distiller.state_dict(),
        }
        if self.group.size > 1:
            state["dropout"] = self.group.gather(state["streams"]["dropout"])
        return state

    @verb("load_state_dict", kept=False)
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of a distillation with the same arguments.

        Raises:
            InputError: if it is of another number of processes.
        """
        dropout = state.get("dropout", [state["streams"]["dropout"]])
        if len(dropout) != self.group.size:
            raise InputError(
                f"the run was one of {len(dropout)} processes, and now there are {self.group.size}: resume it with as "
                "many as it had, or start it anew"
            )
        self._begin(state["counters"]["seed"])
        self.load_counters(copy.deepcopy(state["counters"]))
        self.streams.load_state_dict({**state["streams"], "dropout": dropout[self.group.rank]})
        self.order.load_state_dict(state["order"])
        self._last = self.order.places(state["last"])
        self.distiller.load_state_dict(state["distiller"])
        if self.group.rank:
            self._count_anew()

    def fork(self) -> Distillation:
        """An independent copy of the training as it stands; data and teacher, which never change, are shared.

        Raises:
            ValueError: while a journal answers, since there is no student to copy then, and where several processes
                train it.
        """
        if self.group.size > 1:
            raise ValueError("a training that several processes share cannot be forked")
        if self.journal is not None and self.journal.replaying:
            raise ValueError("a training that a journal answers for cannot be forked")
        twin = copy.copy(self)
        twin.journal = None
        twin.load_state_dict(self.state_dict())
        return twin

    def _ask_student(self, batch: Batch, needs: Needs, ledger: Ledger) -> Outputs:
        ledger.spend("student", self._meter(needs).forward(*batch.shape))
        with computing(self.precision, self.device):
            return run(self.student.model, batch, needs)

    def answer(self, ask: Ask, split: Split, part: str) -> NDArray[np.float64]:
        """What `answers` gives, of this student's device and processes; what they cost goes to `part`."""
        found, flops = self._answers(ask, split)
        self.ledger.spend(part, flops)
        return found

    def _answers(self, ask: Ask, split: Split) -> tuple[NDArray[np.float64], float]:
        return answers(ask, split, self.device, self.student.model.config.vocab_size, self.group)


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
        InputError: if a selection that changes is asked for too seldom for every stage of a published method.
        FloatingPointError: if the training diverges.

    Example:
        distill(distillation, Selection.of("logits", "hidden"), seed=1)
    """
    if not isinstance(selection, Selection):
        check_stages(distillation.stages, distillation.steps, interval)
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
