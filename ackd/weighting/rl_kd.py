"""Selects teachers for each example by draws from a policy that learns during the training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from ackd.costs import CostTracker
from ackd.errors import InputError, unknown
from ackd.files.reading import matches_schema
from ackd.types import Knowledge, OutputRequest
from ackd.weighting.teacher_weights import (
    Learning,
    MeanWeights,
    Network,
    Seen,
    check_batches,
    check_teachers,
    joined,
    look,
)
from ackd.weighting.weighting import Answers, Weighting

KEPT = 0.9  # share of the baseline that is kept with each new batch of rewards

Credit: TypeAlias = Literal["next", "visit"]
Empty: TypeAlias = Literal["none", "all"]
Share: TypeAlias = Literal["selected", "all"]
State: TypeAlias = Literal["cls", "outputs"]


@dataclass(frozen=True)
class Rewarding:
    """The reward of a selection of teachers, and its assignment to selections.

    Args:
        reward: 1 is -CE of the student; 2 is -(CE + KD), with KD to the weighted teachers; 3 is
            gamma (-(CE + KD)) + (1 - gamma) accuracy.
        gamma: gamma of reward 3.
        credit: with `next`, a batch's selections get the mean reward of the next batch; with `visit`, an example's
            selection gets the reward of the same example at its next occurrence.
        empty: teachers of an example without a selected teacher: `none` (labels alone) or `all`.
        share: the selected teachers share the weight 1 (`selected`), or have 1/K each (`all`).
        baseline: subtract a running mean of the rewards.
        state: vector of the example: `cls` of the student's last layer, or its `outputs`.

    Raises:
        InputError: if a value is unknown or out of range.
    """

    reward: int = 1
    gamma: float = 0.5
    credit: Credit = "next"
    empty: Empty = "none"
    share: Share = "selected"
    baseline: bool = True
    state: State = "cls"

    def __post_init__(self) -> None:
        if self.reward not in (1, 2, 3):
            raise InputError(f"there is no reward {self.reward}: take 1, 2 or 3")
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"gamma is {self.gamma}: give 0 to 1")
        for name, known in (("credit", Credit), ("empty", Empty), ("share", Share), ("state", State)):
            if getattr(self, name) not in get_args(known):
                raise unknown(name, getattr(self, name), get_args(known))


class RlKd(Weighting):
    """Reinforced multi-teacher selection: the teachers of each example are drawn from a learned policy.

        s_i = [h_S(x_i), softmax z_1, ..., softmax z_K, CE_1, ..., CE_K]    pi(a_ik = 1) = sigmoid(A s_i + b)_k
        w_ik = a_ik / sum_k a_ik    max E[sum_i R_i]: gradient log pi(a_i) (R_i - running mean of R)

    Accuracy in reward 3 is that of the training batch. The paper uses a dev batch, but here no decision depends on dev.
    With `credit="visit"`, selections may be several updates old at learning, for example after an epoch.

    Args:
        teachers: K.
        classes: C.
        width: width of the student's vectors, for `state="cls"`.
        layer: the student's last layer, for `state="cls"`.
        rewarding: rules of the rewards.
        learning: settings of the policy's learning.

    Raises:
        InputError: for fewer than two teachers or classes.

    References:
        Yuan et al., Reinforced Multi-Teacher Selection for Knowledge Distillation, AAAI 2021,
        https://arxiv.org/abs/2012.06048
    """

    def __init__(
        self,
        teachers: int,
        classes: int,
        *,
        width: int,
        layer: int,
        rewarding: Rewarding | None = None,
        learning: Learning | None = None,
    ) -> None:
        check_teachers(teachers, classes)
        self.rewarding, self.learning = rewarding or Rewarding(), learning or Learning()
        self.layer = layer
        example = width if self.rewarding.state == "cls" else classes
        linear = nn.Linear(example + teachers * (classes + 1), teachers)
        self.network = Network(linear, Adam(linear.parameters(), self.learning.rate))
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
        self._baseline: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None  # states [R, S] and draws [R, K] of the last batch
        self._visits: dict[int, tuple[Tensor, Tensor]] = {}  # by example: its last state [S] and draw [K]
        self._phase: list[tuple[Tensor, Tensor, Tensor]] = []  # states, draws, rewards [R] since the last update
        self._mean = MeanWeights(teachers)

    def reads(self) -> OutputRequest:
        """The student's last [CLS] vector, if it is the state."""
        return OutputRequest(cls=frozenset({self.layer})) if self.rewarding.state == "cls" else OutputRequest()

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights of each teacher's terms; 1/K each during the warm-up."""
        seen = look(answers, terms, rows)
        if seen is None:
            return {}
        if answers.progress < self.learning.warmup:
            weights = torch.full_like(seen.gaps, 1 / seen.gaps.shape[1])
        else:
            with answers.costs.timing("agent"), torch.autocast(seen.student.device.type, enabled=False):
                weights = self._decide(seen, answers)
            self._mean.add(weights)
        return {one.name: weights[:, one.teacher] for one in terms}

    def _decide(self, seen: Seen, answers: Answers) -> Tensor:
        self.network.to(seen.student.device)
        student = answers.student
        example = student.cls[self.layer].detach() if self.rewarding.state == "cls" else student.logits
        assert example is not None
        example = example.detach().float() if seen.rows is None else example.detach()[seen.rows].float()
        state = torch.cat([example, seen.teachers.softmax(-1).flatten(1), seen.errors], 1)
        with torch.no_grad():
            chance = self.network(state).sigmoid()
        answers.costs.add_flops("agent", self.network.flops(len(state)))
        draw = torch.rand(chance.shape, generator=self._generator).to(chance.device)
        chosen = (draw < chance).float()
        weights = self._shares(chosen)
        self._tell(seen.ids, state, chosen, self._reward(seen, weights))
        if len(self._phase) >= self.learning.every:
            self._update(answers.costs)
        return weights

    def _shares(self, chosen: Tensor) -> Tensor:
        """The weights [R, K] from draws [R, K]."""
        if self.rewarding.empty == "all":
            chosen = torch.where(chosen.any(1, keepdim=True), chosen, 1.0)
        if self.rewarding.share == "all":
            return chosen / chosen.shape[1]
        return chosen / chosen.sum(1, keepdim=True).clamp_min(1.0)

    def _reward(self, seen: Seen, weights: Tensor) -> Tensor:
        """The rewards R, [R]."""
        if self.rewarding.reward == 1:
            return -seen.error
        lost = -(seen.error + (weights * seen.gaps).sum(1))
        if self.rewarding.reward == 2:
            return lost
        right = (seen.student.argmax(1) == seen.labels).float().mean()
        return self.rewarding.gamma * lost + (1 - self.rewarding.gamma) * right

    def _tell(self, ids: Sequence[int], state: Tensor, chosen: Tensor, reward: Tensor) -> None:
        """Assigns rewards to earlier draws, and stores the present draws."""
        if self.rewarding.credit == "next":
            if self._last is not None:
                self._phase.append((*self._last, reward.mean().expand(len(self._last[0]))))
            self._last = (state, chosen)
            return
        known = [place for place, one in enumerate(ids) if one in self._visits]
        if known:
            visits = [[part[None] for part in self._visits[ids[place]]] for place in known]
            states, draws = joined(visits, reward.device)
            self._phase.append((states, draws, reward[known]))
        self._visits.update(zip(ids, zip(state, chosen, strict=True), strict=True))

    def _update(self, costs: CostTracker) -> None:
        states, draws, rewards = joined(self._phase, self._phase[-1][-1].device)
        self._phase.clear()
        mean = rewards.mean()
        before = self._baseline if self._baseline is not None else mean
        self._baseline = KEPT * before.to(mean) + (1 - KEPT) * mean
        earned = rewards - before.to(mean) if self.rewarding.baseline else rewards
        self.network.learn(-(log_chance(self.network(states), draws) * earned).mean())
        costs.add_flops("agent", 3 * self.network.flops(len(states)))

    def state_dict(self) -> dict[str, Any]:
        """The network, its optimizer, the generator, and the draws that wait for their reward."""
        state = {
            "network": self.network.state_dict(),
            "generator": self._generator.get_state(),
            "baseline": self._baseline,
            "last": self._last,
            "visits": self._visits,
            "phase": self._phase,
            "mean": self._mean.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`.

        Raises:
            ValueError: if the state is of another policy.
        """
        state = copy.deepcopy(state)
        self.network.load_state_dict(state["network"])
        self._generator.set_state(state["generator"])
        of_state, draw, number = torch.zeros(self.network.width), self._mean.total, torch.zeros(())
        last, visits, baseline = state["last"], state["visits"], state["baseline"]
        check_batches(state["phase"], of_state, draw, number)
        check_batches([] if last is None else [last], of_state, draw)
        if not matches_schema(visits, dict.fromkeys(visits, (of_state, draw))):
            raise ValueError("the visits are those of another policy")
        if baseline is not None and not matches_schema(baseline, number):
            raise ValueError("the baseline is that of another policy")
        self._baseline, self._last, self._visits, self._phase = baseline, last, visits, list(state["phase"])
        self._mean.load_state_dict(state["mean"])

    def learned(self) -> dict[str, Tensor]:
        """The network, and each teacher's mean weight since the warm-up, [K]."""
        return {**self.network.tensors(), "mean_weights": self._mean.value()}


def log_chance(logits: Tensor, draws: Tensor) -> Tensor:
    """`sum_k log pi(a_k)` of independent draws, [R] from [R, K] each."""
    return (draws * F.logsigmoid(logits) + (1 - draws) * F.logsigmoid(-logits)).sum(1)
