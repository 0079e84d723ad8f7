"""How much each teacher counts for each example, by two rules and a network that learns while the student does."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ackd.agents.teacher_weights import (
    Learning,
    MeanWeights,
    Network,
    Seen,
    check_batches,
    check_teachers,
    joined,
    look,
)
from ackd.errors import InputError
from ackd.types import Knowledge, Outputs
from ackd.weighting import Answers, Weighting


class MtkdRl(Weighting):
    """Weights of teachers' outputs, and of their features, from a small network and two rules.

        s_i = [features, logits and CE of each teacher; its KL to the student; its feature loss]
        w = (softmax(head(s)) + (1 - softmax(CE)) / (K - 1) + softmax(gap)) / 3

    The gap is KL(teacher || student) for outputs and the feature loss for features. While warming up every weight is 1.
    The network learns as in the published code: with R_i = -(CE + KD + beta feature loss) brought to mean 0 and
    deviation 1 over the batch and cut to [0, 1], it minimises R_i times the cross-entropy of its weights with 1. This
    is no policy gradient: whatever the rewards, it is least at equal weights, and the rules tell teachers apart.

    Args:
        teachers: K.
        classes: C.
        widths: of each teacher's vectors, where features are distilled; none otherwise.
        beta: weight of the feature loss in the reward.
        hidden: width of the network.
        learning: how the network learns.

    Raises:
        InputError: for fewer than two teachers or classes.

    References:
        Yang et al., Multi-Teacher Knowledge Distillation with Reinforcement Learning, AAAI 2025,
        https://github.com/winycg/MTKD-RL
    """

    def __init__(
        self,
        teachers: int,
        classes: int,
        *,
        widths: Sequence[int] = (),
        beta: float = 1.0,
        hidden: int = 128,
        learning: Learning | None = None,
    ) -> None:
        check_teachers(teachers, classes)
        if hidden < 1:
            raise InputError(f"a network of width {hidden} has nothing to compute with: give at least 1")
        self.beta, self.learning = beta, learning or Learning()
        self.features = bool(widths)
        heads = 1 + self.features
        size = teachers * (classes + 2 + self.features) + sum(widths)
        layers = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, heads * teachers), nn.Unflatten(1, (heads, teachers))
        )
        self.network = Network(layers, self.learning.rate)
        self._phase: list[tuple[Tensor, Tensor]] = []  # states [R, S] and rewards [R] since the last update
        self._mean = MeanWeights(teachers)

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights of each teacher's outputs, and of its features; while warming up none, so all count 1."""
        seen = look(answers, terms, rows)
        if seen is None or answers.progress < self.learning.warmup:
            return {}
        features = sorted((one for one in terms if one.family != "logits"), key=lambda one: one.teacher)
        with answers.ledger.timing("agent"), torch.autocast(seen.student.device.type, enabled=False):
            outputs, others = self._decide(seen, answers, features)
        self._mean.add(outputs)
        return {one.name: (outputs if one.family == "logits" else others)[:, one.teacher] for one in terms}

    def _decide(self, seen: Seen, answers: Answers, features: Sequence[Knowledge]) -> tuple[Tensor, Tensor]:
        """[R, K] for outputs and for features."""
        self.network.to(seen.student.device)
        log_p, log_q = seen.teachers.log_softmax(-1), seen.student.log_softmax(-1)[:, None]
        gaps = [(log_p.exp() * (log_p - log_q)).sum(-1)]
        parts = [seen.teachers.flatten(1), seen.errors, gaps[0]]
        if self.features:
            gaps.append(torch.stack([answers.losses[one.name].detach().float() for one in features], 1))
            parts += [gaps[1], *(_vectors(answers.teachers[one.name]) for one in features)]
        state = torch.cat(parts, 1)
        with torch.no_grad():
            heads = self.network(state).softmax(-1)
        answers.ledger.spend("agent", self.network.flops(len(state)))
        trust = (1 - seen.errors.softmax(1)) / (seen.errors.shape[1] - 1)
        weights = [(heads[:, place] + trust + gap.softmax(1)) / 3 for place, gap in enumerate(gaps)]
        lost = seen.error + (weights[0] * seen.gaps).sum(1)
        if self.features:
            lost = lost + self.beta * (weights[1] * gaps[1]).sum(1)
        self._phase.append((state, standardised(-lost)))
        if len(self._phase) >= self.learning.every:
            states, rewards = joined(self._phase, state.device)
            self._phase.clear()
            self.network.learn(-(self.network(states).log_softmax(-1) * rewards[:, None, None]).mean())
            answers.ledger.spend("agent", 3 * self.network.flops(len(states)))
        return weights[0], weights[-1]

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, and the batches since its last update."""
        state = {"network": self.network.state_dict(), "phase": self._phase, "mean": self._mean.state_dict()}
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`.

        Raises:
            ValueError: if it is of another policy.
        """
        self.network.load_state_dict(state["network"])
        check_batches(state["phase"], torch.zeros(self.network.width), torch.zeros(()))
        self._phase = list(copy.deepcopy(state["phase"]))
        self._mean.load_state_dict(state["mean"])

    def learned(self) -> dict[str, Tensor]:
        """The network, and each teacher's mean weight since the warm-up, [K]."""
        return {**self.network.tensors(), "mean_weights": self._mean.value()}


def standardised(rewards: Tensor) -> Tensor:
    """Brought to mean 0 and deviation 1, then cut to [0, 1], [R]; of equal rewards, 0."""
    apart = rewards - rewards.mean()
    return (apart / rewards.std(unbiased=False).clamp_min(1e-6)).clamp(0.0, 1.0)


def _vectors(outputs: Outputs) -> Tensor:
    """The first token's of the last layer there is, [R, d]."""
    return outputs.hidden[max(outputs.hidden)][:, 0].float()
