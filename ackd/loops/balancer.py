"""Weighs the losses of a user's training loop with a policy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ackd.distributed.process_group import ALONE, Group, Processes
from ackd.errors import InputError, reason
from ackd.experiments.policies import name_of
from ackd.loops.decider import Decider
from ackd.loops.sums import MEASURED, Sums, check_losses, check_value
from ackd.loops.terms import families_of
from ackd.mdp.episode import Phase
from ackd.training.mixture import Scales
from ackd.training.recipe import Recipe
from ackd.types import LABELS, Selection, StepMetrics

logger = logging.getLogger("ackd")

VERSION = 1  # of `state_dict`
LABEL_COST = 0.6  # default cost of a step with only the label loss, as a share of a step with all losses


class Balancer:
    """Weighs the losses of a training loop with a policy: a learned one, a rule, a schedule or loss balancing.

        loss = w_0 L_labels + sum_k w_k c_k L_k

    w are the policy's weights; it decides `decisions` times in the training. c_k = 1 / (mean of L_k over the first
    `scale_steps` calls with L_k) brings the knowledge losses to one size, as in `ackd.training.distiller.Distiller`, so
    that weights mean the same in both.

    Call it once per batch, also in evaluation: calls without gradients return the weighted sum and count nothing. Under
    `torch.distributed` all processes make the same decisions, from means over all processes.

    Args:
        policy: a policy's name or folder, a `Selection`, a function from the `Episode` so far to a `Selection`, a
            policy from `ackd.train_agent`, or an object with stable-baselines3's `predict`.
        total_steps: optimizer steps of the whole training.
        losses: the names of the losses, required to use `wanted` before the first call; if empty, those of the first
            call.
        labels: the name of the label loss; None if there is none.
        families: the family of each loss, by the loss's name: logits, hidden, attention or relation; if missing, it is
            derived from the name.
        decisions: number of decisions in the training; None: 4, or one per interval for loss balancing.
        decision_interval: optimizer steps of a phase; the policy observes means over phases.
        accumulate: calls per optimizer step; None: the loop calls `end_step`.
        scale_steps: number of calls that determine c_k; 0: every c_k is 1.
        costs: by name, the cost of a step with only this loss, as a share of a step with all losses; if missing, .6 for
            the labels and 1 for others.
        peak_learning_rate: peak of the `learning_rate` in the calls; None: the largest one so far.
        seed: seed of the policy's random draws.

    Raises:
        InputError: if the policy is not supported here, or a number is out of range.

    Example:
        balancer = ackd.Balancer("default", total_steps=3000)
        loss = balancer({"labels": ce, "logits": kd, "hidden": mse})
    """

    def __init__(
        self,
        policy: object = "default",
        *,
        total_steps: int,
        losses: Sequence[str] = (),
        labels: str | None = LABELS,
        families: Mapping[str, str] | None = None,
        decisions: int | None = None,
        decision_interval: int = 20,
        accumulate: int | None = 1,
        scale_steps: int = 10,
        costs: Mapping[str, float] | None = None,
        peak_learning_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        numbers = {"total_steps": total_steps, "decision_interval": decision_interval}
        numbers |= {} if decisions is None else {"decisions": decisions}
        numbers |= {} if accumulate is None else {"accumulate": accumulate}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}: give a whole number from 1 up")
        self.policy = policy if isinstance(policy, str) else name_of(policy)
        self.total_steps, self.labels, self.families = total_steps, labels, dict(families or {})
        self._given, self._decisions, self._interval = policy, decisions, decision_interval
        self._accumulate, self._scale_steps, self._costs = accumulate, scale_steps, dict(costs or {})
        self._peak, self._seed = peak_learning_rate, seed
        self.learning_rate: float | None = None  # for calls without one
        self._terms: dict[str, str] = {}  # the policy's name of each loss, labels first
        self.steps_done = 0  # optimizer steps
        self._calls, self._sums = 0, Sums()  # calls of the current step, numbers of the current phase
        self._warned = False  # of calls after the last step
        self._scales: Scales | None = None  # created in the first call, on the device of the losses
        self._sizes: dict[str, Tensor] = {}  # the fixed sizes of losses
        self._decider: Decider | None = None  # created when the names are known
        if losses:
            self._begin(losses)

    # -- decisions --------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """The weight w of each loss in the next step.

        Raises:
            InputError: if the names of the losses are not known yet.
        """
        selection = self._named().selection
        by_term = {LABELS: selection.labels, **selection.weights}
        return {name: by_term.get(term, 0.0) for name, term in self._terms.items()}

    @property
    def wanted(self) -> frozenset[str]:
        """The losses with a weight above 0 in the next step; others need not be computed.

        Raises:
            InputError: if the names of the losses are not known yet.
        """
        return frozenset(name for name, weight in self.weights.items() if weight > 0)

    def log(self) -> dict[str, float]:
        """Numbers for a logger: `weight/NAME`, and `loss/NAME`, the mean over the last complete phase."""
        numbers = {f"weight/{name}": weight for name, weight in self.weights.items()}
        if phases := self._named().episode.phases:
            report = phases[-1].report
            by_term = {LABELS: report.labels, **report.losses}
            numbers |= {f"loss/{name}": by_term[term] for name, term in self._terms.items() if term in by_term}
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """The balancer's state in plain values and tensors."""
        phases = self._named().episode.phases
        return {
            "version": VERSION,
            "policy": self.policy,
            "losses": list(self._terms),
            "steps_done": self.steps_done,
            "calls": self._calls,
            "peak_learning_rate": self._peak,
            "phases": [asdict(phase) for phase in phases],
            "sums": {**asdict(self._sums), "losses": dict(self._sums.losses)},
            "scales": self._scales.state_dict() if self._scales is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict` of a balancer with the same arguments; the policy repeats its decisions.

        Raises:
            InputError: if the state is damaged, or of another policy or training.
        """
        if state.get("version") != VERSION or state.get("policy") != self.policy:
            raise InputError(
                f"the balancer's state is of the policy {state.get('policy')!r} and version {state.get('version')!r}, "
                f"but this balancer has {self.policy!r} and {VERSION}: make it with the same policy"
            )
        self._scales = None
        self._sizes = {}
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the balancer's state is damaged ({reason(error)}): start without it") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        decider = self._begin(state["losses"])
        for row in state["phases"]:
            phase = Phase(**row | {"selection": Selection(**row["selection"]), "report": StepMetrics(**row["report"])})
            if phase.selection != decider.selection:
                raise InputError(
                    f"after {decider.episode.steps_done} steps the balancer's state has other weights than the policy "
                    f"{self.policy} gives here: make it with the same arguments"
                )
            decider.then(phase)
        self.steps_done, self._calls = state["steps_done"], state["calls"]
        self._peak = state.get("peak_learning_rate", self._peak)
        self._sums = Sums(**state["sums"])
        if state["scales"] is not None:
            self._scales = Scales(self._scale_steps, (), torch.device("cpu"), self._group())
            self._scales.load_state_dict(state["scales"])

    # -- calls of the loop ------------------------------------------------------------------------------------------

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self,
        losses: Mapping[str, Tensor],
        *,
        learning_rate: float | None = None,
        grad_norm: float | None = None,
        accuracy: float | None = None,
        uncertainty: float | None = None,
        flops: tuple[float, float] | None = None,
    ) -> Tensor:
        """The weighted sum of a batch's losses.

        Args:
            losses: scalars by name, each the mean over the batch; losses that are not in `wanted` may be missing.
            learning_rate: learning rate of this step; without any, warm-up over 6 % and linear decay are assumed.
            grad_norm: gradient norm of the previous step, before clipping.
            accuracy: share of the batch with a correct prediction of the student.
            uncertainty: mean entropy of the student's predictions, divided by log C for C classes.
            flops: FLOPs of this step, and of a step with all losses.

        Raises:
            InputError: if a wanted loss is missing, or a loss is unknown, not a scalar, negative or NaN.
        """
        decider = self._decider or self._begin(list(losses))
        check_losses(losses, self.weights, self.steps_done)
        counted = torch.is_grad_enabled() and not self._over()
        if torch.is_grad_enabled() and not counted and not self._warned:
            self._warned = True
            logger.warning("the balancer is past its %d steps: its last weights stay", self.total_steps)
        total = self._total(decider, losses, counted=counted)
        if counted:
            numbers = {"grad_norm": grad_norm, "accuracy": accuracy, "uncertainty": uncertainty}
            numbers |= dict(zip(MEASURED[3:], flops or (), strict=False))
            reported = {name: value for name, value in numbers.items() if value is not None}
            rate = self.learning_rate if learning_rate is None else learning_rate
            self._note({*decider.chosen, LABELS}, losses, reported, rate)
        return total

    def end_step(self) -> None:
        """Counts an optimizer step, for loops with a varying number of calls per step."""
        if not self._calls:
            return
        self._calls = 0
        self.steps_done += 1
        if self.steps_done % self._interval == 0 or self._over():
            self._end_phase()

    def _total(self, decider: Decider, losses: Mapping[str, Tensor], *, counted: bool) -> Tensor:
        """The weighted sum of the chosen losses."""
        named = {self._terms[name]: loss for name, loss in losses.items()}
        parts = []
        for term in decider.chosen:
            loss, selection = named[term].reshape(()), decider.selection
            if term != LABELS:
                loss = self._scaled(term, loss, counted=counted)
            parts.append((selection.labels if term == LABELS else selection.weights[term]) * loss)
        return sum(parts[1:], parts[0])

    def _scaled(self, term: str, loss: Tensor, *, counted: bool) -> Tensor:
        if self._scales is None:
            self._scales = Scales(self._scale_steps, (), loss.device, self._group())
        if term in self._sizes:
            return loss / self._sizes[term]
        if not counted:
            return self._scales.scaled(term, loss)
        scaled = self._scales(term, loss.detach().float(), loss, 1, None)
        if self._scales.fixed(term):
            self._sizes[term] = self._scales.size(term, loss)
        return scaled

    # -- phases -----------------------------------------------------------------------------------------------------

    def _begin(self, names: Sequence[str]) -> Decider:
        """Sets the names of the losses, and makes the first decision."""
        families = families_of(names, self.families, self.labels)
        self._terms = {name: LABELS if name == self.labels else name for name in families}
        by_term = {self._terms[name]: family for name, family in families.items()}
        self._prices = {term: LABEL_COST if term == LABELS else 1.0 for term in by_term}
        self._prices |= {self._terms[name]: cost for name, cost in self._costs.items() if name in self._terms}
        self._decider = Decider(
            self.policy,
            self._given,
            families=by_term,
            prices=self._prices,
            steps=self.total_steps,
            decision_interval=self._interval,
            decisions=self._decisions,
            seed=self._seed,
        )
        return self._decider

    def _named(self) -> Decider:
        if self._decider is None:
            raise InputError("the losses have no names yet: call the balancer first, or name them with losses=")
        return self._decider

    def _over(self) -> bool:
        return self.steps_done >= self.total_steps

    def _note(
        self,
        noted: set[str],
        losses: Mapping[str, Tensor],
        reported: Mapping[str, float],
        learning_rate: float | None,
    ) -> None:
        """Adds a call to the current phase, and ends the step if it is complete."""
        sums = self._sums
        if not sums.calls:
            sums.learning_rate = self._share(learning_rate)
        sums.add({self._terms[name]: loss for name, loss in losses.items() if self._terms[name] in noted}, reported)
        self._calls += 1
        if self._calls == self._accumulate:
            self.end_step()

    def _share(self, learning_rate: float | None) -> float:
        """The learning rate as a share of its peak."""
        if learning_rate is None:
            return Recipe().rate(self.steps_done, self.total_steps)
        self._peak = max(self._peak or 0.0, learning_rate)
        return learning_rate / self._peak if self._peak else 0.0

    def _end_phase(self) -> None:
        decider, sums, self._sums = self._named(), self._sums, Sums()
        means = sums.means(self._group())
        for name, term in self._terms.items():
            if term in means:
                check_value(name, means[term], self.steps_done)
        steps = self.steps_done - decider.episode.steps_done
        share, whole = max(self._prices[term] for term in decider.chosen), 1.0
        if "flops" in sums.reported:
            share, whole = means["flops"], means["flops_all"]
        report = StepMetrics(
            0.0,
            means.get(LABELS, 0.0),
            means["grad_norm"],
            means["uncertainty"],
            means["accuracy"],
            {term: means[term] for term in decider.signals.families if term != LABELS and term in means},
        )
        decider.then(Phase(decider.selection, report, None, steps, sums.learning_rate, steps * share, steps * whole))

    def _group(self) -> Group:
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        self._processes = getattr(self, "_processes", None) or Processes()
        return self._processes
