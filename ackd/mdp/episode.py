"""The history of one episode; signals and rewards depend on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ackd.types import EvalResult, Selection, StepMetrics

# The rule "labels alone if overtaken > .9 and agreement > .6" was right on 14 settings that it was not derived from.
# If 40 % of the labels are wrong, even a perfect teacher agrees with only .6 of them; then the teacher is right.
OVERTAKEN, TRUSTED = 0.9, 0.6


@dataclass(frozen=True)
class Facts:
    """Measurements of a setting before the first step, from which a policy can distinguish settings."""

    agreement: float  # share of the reward split on which the teacher's likeliest class is the label's
    confidence: float  # the mean probability of the teacher's likeliest class there; 0 for regression
    probe: float  # accuracy on the reward split of a linear probe on the student's initial states, fitted on train
    chance: float  # 1 / classes; 0 for regression, where agreement and probe are correlations with the labels
    examples_per_parameter: float  # training examples / parameters of the student
    epochs: float  # passes over the training examples that the budget makes

    @property
    def overtaken(self) -> float:
        """How well the student's initial states predict the labels, relative to the teacher.

            (probe - chance) / (agreement - chance)

        Near or above 1, the student can learn the labels better than the teacher knows them. Infinite if the teacher
        is no better than chance.
        """
        known = self.agreement - self.chance
        return (self.probe - self.chance) / known if known > 0 else float("inf")


@dataclass(frozen=True)
class Phase:
    """Some optimizer steps under one selection, and their results; a decision lasts one or more phases."""

    selection: Selection
    report: StepMetrics[float]  # the mean over the phase's optimizer steps
    eval_result: EvalResult | None  # on the reward split, after the phase; None if not measured
    steps: int  # optimizer steps in this phase
    learning_rate: float  # share of its peak
    flops: float  # of the optimizer steps without any cache, so that caches do not change rewards
    flops_all: float  # of transferring everything in the same steps

    @property
    def finite(self) -> bool:
        """True if nothing diverged."""
        return self.report.finite and (self.eval_result is None or self.eval_result.finite)


@dataclass(frozen=True)
class Episode:
    """One student's training so far, phase by phase; it is immutable."""

    start: EvalResult | None  # the student on the reward split before the first step; None if nothing is measured
    teacher: EvalResult | None  # the teacher on the reward split
    steps: int  # the budget in optimizer steps
    decision_interval: int  # optimizer steps in a phase; the last one may be shorter
    phases: Sequence[Phase] = ()
    decisions: int | None = None  # in the whole episode, spread evenly over its phases; None: one for each phase
    facts: Facts | None = None  # of the setting; None without a teacher or if not measured

    @property
    def steps_done(self) -> int:
        """Optimizer steps taken."""
        return sum(phase.steps for phase in self.phases)

    @property
    def decisions_left(self) -> int:
        """Decisions until the budget ends, the one under way included."""
        over = -(-self.steps_done // self.decision_interval)
        return sum(end > over for end in ends(self.steps, self.decision_interval, self.decisions))

    @property
    def eval_result(self) -> EvalResult | None:
        """The latest result on the reward split."""
        return _latest(self.phases) or self.start

    @property
    def eval_before(self) -> EvalResult | None:
        """The latest result on the reward split before the last phase."""
        return _latest(self.phases[:-1]) or self.start

    def then(self, phase: Phase) -> Episode:
        """A copy of this episode with one more phase."""
        return replace(self, phases=(*self.phases, phase))


def ends(steps: int, decision_interval: int, decisions: int | None) -> list[int]:
    """The number of finished phases at the end of each decision; decisions are spread evenly over phases."""
    phases = -(-steps // decision_interval)
    count = min(decisions or phases, phases)
    return [-(-number * phases // count) for number in range(1, count + 1)]


def _latest(phases: Sequence[Phase]) -> EvalResult | None:
    return next((phase.eval_result for phase in reversed(phases) if phase.eval_result), None)
