"""Weights of teachers for each example, by two rules and a network that learns during the training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from ackd.errors import InputError
from ackd.knowledge import Hidden
from ackd.types import Knowledge
from ackd.weighting.teacher_weights import Learning, MeanWeights, Network, Seen, check_batches, check_teachers, look
from ackd.weighting.weighting import Answers, Weighting

PUBLISHED = Learning(rate=0.1, every=1000)
LEAST = 1e-30  # lower bound of a weight in a logarithm


class Blend(nn.Module):
    """Weights of K teachers by a network and two rules, for logits and, if distilled, for features.

        w = c_1 softmax(head(relu(W s))) + c_2 (1 - softmax(CE)) / (K - 1) + c_3 softmax(gap)

    The gap is the KL for logits, and the cosine for features. Each c is 1/3, or learned as the softmax of three numbers
    that start equal.

    Args:
        size: numbers in a state, which begins with the K label losses and the K gaps of each kind.
        teachers: K.
        kinds: 1, or 2 if features are distilled.
        hidden: width of the network.
        dynamic: whether c is learned.
    """

    def __init__(self, size: int, teachers: int, kinds: int, *, hidden: int, dynamic: bool) -> None:
        super().__init__()
        self.teachers, self.kinds = teachers, kinds
        self.stem = nn.Linear(size, hidden, bias=False)
        self.heads = nn.Linear(hidden, kinds * teachers)
        self.factors = nn.Parameter(torch.ones(kinds, 3), requires_grad=dynamic)

    def forward(self, state: Tensor) -> Tensor:
        """The weights [R, kinds, K] for states [R, S]."""
        known = state[:, : (1 + self.kinds) * self.teachers].unflatten(1, (1 + self.kinds, self.teachers))
        own = self.heads(self.stem(state).relu()).unflatten(1, (self.kinds, self.teachers)).softmax(-1)
        trust = ((1 - known[:, :1].softmax(-1)) / (self.teachers - 1)).expand_as(own)
        parts = torch.stack([own, trust, known[:, 1:].softmax(-1)], -1)
        return (parts * self.factors.softmax(-1)[:, None]).sum(-1)


class MtkdRl(Weighting):
    """Weights of teachers' logits and features from a small network and two rules; see `Blend`.

        s_i = [CE of each teacher; its KL to the student; cos of its feature and the student's; logits and features]

    During the warm-up every weight is 1. The network learns as in the published code. The reward
    R_i = -(CE + KD + beta feature loss) is standardised over the batch and clipped to [0, 1]. The network minimises R_i
    times the binary cross-entropy of the blended weights with 1, in one step for each batch since the last update. An
    update comes after `learning.every` batches, and at the end of an epoch, when most of a batch was seen before. This
    is not a policy gradient: -log w falls most if w is small, so the network learns to undo the differences that the
    rules make.

    Args:
        teachers: K.
        classes: C.
        widths: width of each teacher's vectors if features are distilled; otherwise empty.
        beta: weight of the feature loss in the reward.
        hidden: width of the network.
        dynamic: learn the weights of network and rules.
        learning: how the network learns, by gradient descent without momentum.

    Raises:
        InputError: for fewer than two teachers or classes.

    References:
        Yang et al., Multi-Teacher Knowledge Distillation with Reinforcement Learning for Visual Recognition, AAAI 2025,
        https://github.com/winycg/MTKD-RL
    """

    def __init__(
        self,
        teachers: int,
        classes: int,
        *,
        widths: Sequence[int] = (),
        beta: float = 5.0,
        hidden: int = 128,
        dynamic: bool = False,
        learning: Learning = PUBLISHED,
    ) -> None:
        check_teachers(teachers, classes)
        if hidden < 1:
            raise InputError(f"a network of width {hidden} has nothing to compute with: give at least 1")
        self.beta, self.learning = beta, learning
        self.features = bool(widths)
        size = teachers * (classes + 2 + self.features) + sum(widths)
        blend = Blend(size, teachers, 1 + self.features, hidden=hidden, dynamic=dynamic)
        trained = [one for one in blend.parameters() if one.requires_grad]
        self.network = Network(blend, SGD(trained, self.learning.rate))
        self._phase: list[tuple[Tensor, Tensor]] = []  # states [R, S] and rewards [R] since the last update
        self._epoch: set[int] = set()  # ids of the examples in the present epoch
        self._mean = MeanWeights(teachers)

    def weigh(self, answers: Answers, terms: Sequence[Knowledge], rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights of each teacher's logits and features; during the warm-up none, so all count 1."""
        seen = look(answers, terms, rows)
        if seen is None:
            return {}
        features = sorted((one for one in terms if isinstance(one, Hidden)), key=lambda one: one.teacher)
        warming = answers.progress < self.learning.warmup
        with answers.costs.timing("agent"), torch.autocast(seen.student.device.type, enabled=False):
            self.network.to(seen.student.device)
            self._end_epoch(answers.batch.ids.tolist(), answers)
            weights = self._decide(seen, answers, features, warming)
            if len(self._phase) >= self.learning.every:
                self._update(answers)
        if warming:
            return {}
        self._mean.add(weights[:, 0])
        return {one.name: weights[:, int(isinstance(one, Hidden)), one.teacher] for one in terms}

    def _end_epoch(self, ids: Sequence[int], answers: Answers) -> None:
        """Updates if most of the batch was seen in this epoch, since a new epoch has then begun."""
        if 2 * sum(one in self._epoch for one in ids) > len(ids):
            self._epoch.clear()
            self._update(answers)
        self._epoch.update(ids)

    def _decide(self, seen: Seen, answers: Answers, features: Sequence[Hidden], warming: bool) -> Tensor:
        """The weights [R, 1 or 2, K]; stores states and rewards for learning."""
        cosines = [self._cosine(one, seen, answers) for one in features]
        vectors = [answers.teachers[one.name].hidden[one.pairs[-1][1]][:, 0].float() for one in features]
        gaps = [seen.gaps, *([torch.stack(cosines, 1)] if cosines else [])]
        state = torch.cat([seen.errors, *gaps, seen.teachers.flatten(1), *vectors], 1)
        with torch.no_grad():
            weights = self.network(state)
        answers.costs.add_flops("agent", self.network.flops(len(state)))
        counting = torch.ones_like(weights) if warming else weights
        lost = seen.error + (counting[:, 0] * seen.gaps).sum(1)
        if features:
            apart = torch.stack([answers.losses[one.name].detach().float() for one in features], 1)
            lost = lost + self.beta * (counting[:, 1] * apart).sum(1)
        self._phase.append((state, standardised(-lost)))
        return weights

    def _cosine(self, one: Hidden, seen: Seen, answers: Answers) -> Tensor:
        """Cosine of the first token's projected last vector with the teacher's, [R]."""
        ours, theirs = one.pairs[-1]
        mine = answers.student.hidden[ours][:, 0].detach()
        mine = (mine if seen.rows is None else mine[seen.rows]).float()
        answers.costs.add_flops("agent", one.flops(len(mine), 1) / 3)  # without the backward pass
        with torch.no_grad():
            return F.cosine_similarity(one.projection(mine), answers.teachers[one.name].hidden[theirs][:, 0].float())

    def _update(self, answers: Answers) -> None:
        """Takes one step for each stored batch."""
        device = answers.batch.labels.device  # stored batches may come from a checkpoint of another device
        for state, reward in self._phase:
            self.network.learn(blended_loss(self.network(state.to(device)), reward.to(device)))
            answers.costs.add_flops("agent", 3 * self.network.flops(len(state)))
        self._phase.clear()

    def state_dict(self) -> dict[str, Any]:
        """The network, its optimizer, the batches since its last update, and the epoch's examples."""
        state = {"network": self.network.state_dict(), "phase": self._phase, "mean": self._mean.state_dict()}
        return copy.deepcopy(state | {"epoch": torch.tensor(sorted(self._epoch), dtype=torch.int64)})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`.

        Raises:
            ValueError: if the state is of another policy.
        """
        self.network.load_state_dict(state["network"])
        check_batches(state["phase"], torch.zeros(self.network.width), torch.zeros(()))
        epoch = state["epoch"]
        if not (isinstance(epoch, Tensor) and epoch.dtype == torch.int64 and epoch.dim() == 1):
            raise ValueError("the epoch is that of another policy")
        self._phase = list(copy.deepcopy(state["phase"]))
        self._epoch = set(epoch.tolist())
        self._mean.load_state_dict(state["mean"])

    def learned(self) -> dict[str, Tensor]:
        """The network, and each teacher's mean weight since the warm-up, [K]."""
        return {**self.network.tensors(), "mean_weights": self._mean.value()}


def blended_loss(weights: Tensor, rewards: Tensor) -> Tensor:
    """`sum over kinds of mean_ik -R_i log w_ik` from [R, kinds, K] and [R]: binary cross-entropy with 1."""
    return -(rewards[:, None, None] * weights.clamp_min(LEAST).log()).mean((0, 2)).sum()


def standardised(rewards: Tensor) -> Tensor:
    """Rewards with mean 0 and sample deviation (N - 1) 1, clipped to [0, 1], [R]; 0 if equal or single."""
    apart = rewards - rewards.mean()
    spread = rewards.std() if len(rewards) > 1 else torch.ones_like(rewards).mean()
    return (apart / spread.clamp_min(1e-6)).clamp(0.0, 1.0)
