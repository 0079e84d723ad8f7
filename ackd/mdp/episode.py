"""The history of one episode; signals and rewards depend on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ackd.types import EvalResult, Selection, StepMetrics

LEAD = 2.0  # standard errors by which a probe has to predict the labels better than the teacher does


@dataclass(frozen=True)
class Facts:
    """Measurements of a setting before the first step, from which a policy can distinguish settings."""

    agreement: float  # share of the reward split on which the teacher's likeliest class is the label's
    confidence: float  # the mean probability of the teacher's likeliest class there; 0 for regression
    probe: float  # accuracy on the reward split of a linear probe on the student's initial states
    chance: float  # 1 / classes; 0 for regression, where agreement and probe are correlations with the labels
    examples_per_parameter: float  # training examples / parameters of the student
    epochs: float  # passes over the training examples that the budget makes
    # standard errors by which a linear probe predicts the labels better than the teacher does, see `probe.lead`
    student_lead: float = 0.0  # of the probe on the student's initial states
    teacher_lead: float = 0.0  # of a probe on the teacher's own last states; 0 if it returns none

    @property
    def overtaken(self) -> float:
        """The larger lead / `LEAD`; above 1, the labels probably teach more than the teacher."""
        return max(self.student_lead, self.teacher_lead) / LEAD


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
