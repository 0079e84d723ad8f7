"""Amortized refinement: a policy that was learned before goes on learning inside the single run that it is used in."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ackd.agents.learned import LearnedPolicy, batch_of
from ackd.agents.policy import Observations, State, Transition
from ackd.agents.set_policy import SetNetwork, likeliest, sampled
from ackd.errors import InputError

MIN_EACH = 3  # phases of either sort, before a difference between them says anything


@dataclass(frozen=True)
class Phase:
    """What one phase came to."""

    left: bool  # whether any of its actions was another than the frozen policy's likeliest
    surprise: float  # what it earned beyond the frozen policy's own expectation


class Refining:
    """A frozen policy and a copy of it that learns, of which the one acts that seems to do better.

    A phase is the decisions between two measurements of the reward. In most phases the likeliest action is taken; in
    some, fewer towards the end, actions are drawn. A phase is worth

        d = R + V_0(s_end) - V_0(s_start)

    with R what it earned and V_0 the frozen critic. Where it left the frozen policy's own choice, the copy ascends
    `A mean log pi(a|s) - anchor KL(pi_0 || pi)` for a few steps, with A = (d - mean d of the phases that kept to that
    choice) / deviation of d. The frozen critic may be wrong about a new task, but it is wrong about both sorts of
    phases. Where those that left have a mean d that is lower by more than a standard error, after at least `MIN_EACH`
    of either sort, the frozen policy decides for the rest of the run.

    Args:
        policy: what was learned before, over subsets.
        phase: decisions in a phase, as the environment's `reward_every`.
        explore: share of phases that explore, at the start; it falls in a line to 0 at the end of the run.
        learning_rate: of Adam.
        epochs: gradient steps after a phase.
        anchor: weight of the divergence from the frozen policy.
        seed: of the exploration.

    Raises:
        InputError: if the policy does not choose subsets, or a number is out of range.

    References:
        The phases are those of Wang et al., Improved Knowledge Distillation for Pre-trained Language Models via
        Knowledge Selection, Findings of EMNLP 2022, https://arxiv.org/abs/2302.00444; the rest is ours.
    """

    def __init__(
        self,
        policy: LearnedPolicy,
        *,
        phase: int,
        explore: float = 0.5,
        learning_rate: float = 1e-3,
        epochs: int = 4,
        anchor: float = 0.1,
        seed: int = 0,
    ) -> None:
        if type(policy.network) is not SetNetwork:
            raise InputError(
                f"only policies that choose subsets can be refined, not one of {policy.card.algorithm}: "
                "use it as it is, without --refine"
            )
        if phase < 1 or not 0 <= explore <= 1:
            raise InputError(
                f"a phase has {phase} decisions and {explore} of them explore: give at least 1, and 0 to 1"
            )
        self.frozen = policy.network
        self.network = copy.deepcopy(policy.network).train().requires_grad_(True)
        self.phase, self.explore, self.epochs, self.anchor = phase, explore, epochs, anchor
        self.phases: list[Phase] = []
        self.learned = self.fallen_back = False
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self._generator = torch.Generator().manual_seed(seed)
        self._taken: list[Transition] = []
        self._drawing = False

    def predict(
        self,
        observation: Observations,
        state: State | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int8], State | None]:
        """The likeliest action, or a draw where the phase explores and `deterministic` is not asked for."""
        batch = batch_of(observation)
        if not self._taken:
            self._drawing = self._draws(float(batch["globals"][0, 0]))
        with torch.no_grad():
            logits, _, available = (self.frozen if self.fallen_back else self.network).read(batch)
            explores = self._drawing and not deterministic
            bits = sampled(logits, available, self._generator) if explores else likeliest(logits, available)
        return bits.numpy().astype(np.int8).reshape(np.shape(observation["mask"])), state

    def update(self, transition: Transition) -> None:
        """Remembers a decision; learns when it was the last of its phase.

        Raises:
            InputError: if it is of several environments: there is one student.
        """
        if len(transition.reward) != 1:
            raise InputError(f"refinement has one student, got decisions of {len(transition.reward)}")
        self._taken.append(transition)
        over = bool(transition.over[0])
        if len(self._taken) < self.phase and not over:
            return
        taken, self._taken = self._taken, []
        earned = math.fsum(float(one.reward[0]) for one in taken)
        if self.fallen_back or over or not math.isfinite(earned):  # nothing is left to be decided by what is learned
            return
        self._learn(taken, earned)
        self.fallen_back = self._worse()

    def flops(self, types: int) -> float:
        """Floating-point operations of a decision over so many types and its part in learning.

        A pass to act, one of the frozen policy, and one forwards and backwards, which counts three, for each epoch.
        """
        return (2 + 3 * self.epochs) * self.network.flops(types)

    def _draws(self, progress: float) -> bool:
        share = self.explore * (1 - progress)
        return bool(torch.rand((), generator=self._generator) < share) and not self.fallen_back

    def _learn(self, taken: list[Transition], earned: float) -> None:
        batch = {name: torch.cat([batch_of(one.observation)[name] for one in taken]) for name in taken[0].observation}
        actions = torch.from_numpy(np.concatenate([one.action for one in taken]).astype(np.float32))
        following = batch_of(taken[-1].following)
        with torch.no_grad():
            expected, values, mask = self.frozen.read(batch)
            _, after, _ = self.frozen.read(following)
            kept = bool(torch.equal(likeliest(expected, mask), actions * mask))
        surprise = earned + float(after[0]) - float(values[0])
        before = [phase.surprise for phase in self.phases]
        usual = [phase.surprise for phase in self.phases if not phase.left] or before
        self.phases.append(Phase(not kept, surprise))
        if kept or len(before) < 2:
            return
        self.learned = True
        advantage = (surprise - statistics.fmean(usual)) / max(statistics.stdev([*before, surprise]), 1e-6)
        for _ in range(self.epochs):
            logits, _, _ = self.network.read(batch)
            signs = 2 * actions - 1
            likelihood = (F.logsigmoid(signs * logits) * mask).sum(1).mean()
            loss = self.anchor * _divergence(expected, logits, mask) - advantage * likelihood
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
            self._optimizer.step()

    def _worse(self) -> bool:
        """Whether leaving the frozen policy's choice seems to have cost more than a standard error."""
        left, kept = ([phase.surprise for phase in self.phases if phase.left is sort] for sort in (True, False))
        if min(len(left), len(kept)) < MIN_EACH:
            return False
        error = math.sqrt(sum(statistics.variance(sort) / len(sort) for sort in (left, kept)))
        return statistics.fmean(left) - statistics.fmean(kept) < -error


def _divergence(logits: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """KL between two sets of independent bits, summed over the available ones, mean over the batch."""
    share = logits.sigmoid()
    each = share * (F.logsigmoid(logits) - F.logsigmoid(others))
    each = each + (1 - share) * (F.logsigmoid(-logits) - F.logsigmoid(-others))
    return (each * mask).sum(1).mean()
