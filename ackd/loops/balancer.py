"""A policy in a training loop of one's own: it weighs named losses by what the loop reports."""

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

VERSION = 1  # of a `state_dict`
LABEL_COST = 0.6  # of a step with the labels alone, as a share of one with everything, where nobody says it


class Balancer:
    """Weighs the losses of a training loop with a policy: a learned one, a rule, a schedule or loss balancing.

        loss = w_0 L_labels + sum_k w_k c_k L_k

    w are the policy's weights, decided anew `decisions` times in the training. c_k = 1 / (mean of L_k over the first
    `scale_steps` calls that computed it) brings the knowledge losses to one size, as
    `ackd.training.distiller.Distiller` does, so that weights mean the same in both.

    It is called once for each batch, in evaluation too: without gradients it weighs and counts nothing. Under
    `torch.distributed` all processes decide alike, from means over all of them.

    Args:
        policy: a policy's name or folder, a `Selection`, a function from the `Episode` so far to one, what
            `ackd.train_agent` returns, or an object with stable-baselines3's `predict`.
        total_steps: optimizer steps of the whole training.
        losses: the names of the losses, where `wanted` is asked before the first call; else those of the first call.
        labels: the name of the label loss; None if there is none.
        families: what a loss transfers, by its name: logits, hidden, attention or relation; read off the name where it
            is not given.
        decisions: in the whole training; 4, or as many as there are intervals for loss balancing, if None.
        decision_interval: optimizer steps whose mean numbers are one point in what the policy sees.
        accumulate: calls that make one optimizer step; None where the loop says it, by `end_step`.
        scale_steps: 0 leaves every c_k at 1.
        costs: of a step with one loss alone, as a share of a step with everything; .6 for the labels and 1 for others
            where it is not given.
        peak_learning_rate: of the `learning_rate` that calls report; the largest so far if None.
        seed: of a policy that draws.

    Raises:
        InputError: if the policy cannot decide here, or a number is out of range.

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
        self.learning_rate: float | None = None  # of calls that do not report one
        self._terms: dict[str, str] = {}  # of each loss, labels first, what policies call it
        self.steps_done = 0  # optimizer steps
        self._calls, self._sums = 0, Sums()  # calls of the step under way, numbers of the phase
        self._told = False  # that its steps are over
        self._scales: Scales | None = None  # made where the losses are
        self._sizes: dict[str, Tensor] = {}  # of losses, once they are fixed
        self._decider: Decider | None = None  # made where the names are
        if losses:
            self._begin(losses)

    # -- what is decided --------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """The weight w of each loss in the next step.

        Raises:
            InputError: before the losses have names.
        """
        selection = self._named().selection
        there = {LABELS: selection.labels, **selection.weights}
        return {name: there.get(term, 0.0) for name, term in self._terms.items()}

    @property
    def wanted(self) -> frozenset[str]:
        """The losses with a weight above 0 in the next step; no other needs to be computed.

        Raises:
            InputError: before the losses have names.
        """
        return frozenset(name for name, weight in self.weights.items() if weight > 0)

    def log(self) -> dict[str, float]:
        """Plain numbers for a logger: `weight/NAME`, and `loss/NAME` as it was in the last complete interval."""
        said = {f"weight/{name}": weight for name, weight in self.weights.items()}
        if phases := self._named().episode.phases:
            report = phases[-1].report
            there = {LABELS: report.labels, **report.losses}
            said |= {f"loss/{name}": there[term] for name, term in self._terms.items() if term in there}
        return said

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, in plain values and tensors."""
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
        """Goes on from a `state_dict` of a balancer with the same arguments: its decisions are taken again.

        Raises:
            InputError: if it is of another policy or training.
        """
        if state.get("version") != VERSION or state.get("policy") != self.policy:
            raise InputError(
                f"the balancer's state is of the policy {state.get('policy')!r} and version {state.get('version')!r}, "
                f"and here these are {self.policy!r} and {VERSION}"
            )
        self._scales = None
        self._sizes = {}
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the balancer's state is damaged ({reason(error)}): begin anew without it") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        decider = self._begin(state["losses"])
        for row in state["phases"]:
            phase = Phase(**row | {"selection": Selection(**row["selection"]), "report": StepMetrics(**row["report"])})
            if phase.selection != decider.selection:
                raise InputError(
                    f"after {decider.episode.steps_done} steps the state of the balancer has other weights than the "
                    f"policy {self.policy} gives here: make it with the same arguments"
                )
            decider.then(phase)
        self.steps_done, self._calls = state["steps_done"], state["calls"]
        self._peak = state.get("peak_learning_rate", self._peak)
        self._sums = Sums(**state["sums"])
        if state["scales"] is not None:
            self._scales = Scales(self._scale_steps, (), torch.device("cpu"), self._group())
            self._scales.load_state_dict(state["scales"])

    # -- what a loop calls ------------------------------------------------------------------------------------------

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
            losses: scalars by their names, each the mean over the batch; those that are not in `wanted` may be absent.
            learning_rate: of this step; a linear fall after 6 % of warm-up is assumed if it is never given.
            grad_norm: before clipping, of the step before.
            accuracy: share of the batch that the student answers right.
            uncertainty: mean entropy of the student's answers over the logarithm of the number of classes.
            flops: of this step, and of a step that computes every loss.

        Raises:
            InputError: if a wanted loss is absent, a loss has no name known here, is no scalar, or is negative or NaN.
        """
        decider = self._decider or self._begin(list(losses))
        check_losses(losses, self.weights, self.steps_done)
        counted = torch.is_grad_enabled() and not self._over()
        if torch.is_grad_enabled() and not counted and not self._told:
            self._told = True
            logger.warning("the balancer is past its %d steps: its last weights stay", self.total_steps)
        total = self._total(decider, losses, counted=counted)
        if counted:
            told = {"grad_norm": grad_norm, "accuracy": accuracy, "uncertainty": uncertainty}
            told |= dict(zip(MEASURED[3:], flops or (), strict=False))
            reported = {name: value for name, value in told.items() if value is not None}
            rate = self.learning_rate if learning_rate is None else learning_rate
            self._note({*decider.chosen, LABELS}, losses, reported, rate)
        return total

    def end_step(self) -> None:
        """An optimizer step is done: for a loop whose steps take differently many calls."""
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

    # -- what the policy sees ---------------------------------------------------------------------------------------

    def _begin(self, names: Sequence[str]) -> Decider:
        """Takes the losses' names, and has the policy decide for the first time."""
        families = families_of(names, self.families, self.labels)
        self._terms = {name: LABELS if name == self.labels else name for name in families}
        seen = {self._terms[name]: family for name, family in families.items()}
        self._prices = {term: LABEL_COST if term == LABELS else 1.0 for term in seen}
        self._prices |= {self._terms[name]: cost for name, cost in self._costs.items() if name in self._terms}
        self._decider = Decider(
            self.policy,
            self._given,
            families=seen,
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
        """Adds a call to its phase, and ends the phase where it is due."""
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
        found = sums.means(self._group())
        for name, term in self._terms.items():
            if term in found:
                check_value(name, found[term], self.steps_done)
        steps = self.steps_done - decider.episode.steps_done
        share, whole = max(self._prices[term] for term in decider.chosen), 1.0
        if "flops" in sums.reported:
            share, whole = found["flops"], found["flops_all"]
        report = StepMetrics(
            0.0,
            found.get(LABELS, 0.0),
            found["grad_norm"],
            found["uncertainty"],
            found["accuracy"],
            {term: found[term] for term in decider.signals.families if term != LABELS and term in found},
        )
        decider.then(Phase(decider.selection, report, None, steps, sums.learning_rate, steps * share, steps * whole))

    def _group(self) -> Group:
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        self._processes = getattr(self, "_processes", None) or Processes()
        return self._processes
