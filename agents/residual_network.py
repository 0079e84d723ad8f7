"""A network that corrects a schedule, so that it starts as good as the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ackd.agents.schedule import KNOTS, Schedule, entries
from ackd.agents.set_network import WIDTH, SetNetwork
from ackd.mdp.action_spaces import DOUBLINGS
from ackd.mdp.observations import FEATURES
from ackd.types import LABELS

BOUND = 1.0  # doublings: a weight is corrected by a factor from 1/2 to 2
SPREAD = 0.5  # doublings: standard deviation of draws at the start
GATE = -4.0  # the gate's logit at the start: a probability of 0.02
OFF = -1.0  # entry of a type that the gate has switched off; below the action space, so it is clipped to 0
ONE = 0.5  # the entry of weight 1
IS_LABELS = FEATURES.index(f"is_{LABELS}")


class ResidualNetwork(SetNetwork):
    """A schedule, a bounded correction of each weight, and a gate that selects only the labels.

        log2 w_k = schedule_k(progress) + b tanh(f(state, k));  only the labels, with weight 1, if the gate is open

    f is the actor of a `SetNetwork`. The last layers of f and of the gate start with zero weights: at the start w is
    the schedule's, and the gate opens with probability 0.02.

    Args:
        overview: G, as in `SetNetwork`.
        features: F, as in `SetNetwork`.
        width: hidden width.
        knots: number of knots of the schedule.
        values: values of the schedule; all weights 1 if None.
    """

    kind: ClassVar[str] = "residual"

    def __init__(
        self, overview: int, features: int, width: int = WIDTH, knots: int = KNOTS, values: ArrayLike | None = None
    ) -> None:
        super().__init__(overview, features, width)
        self.schedule = Schedule(knots, values)
        self.gate = nn.Linear(width + overview, 1)
        self.log_std = nn.Parameter(torch.tensor(math.log(SPREAD / (2 * DOUBLINGS))))
        self.begin()

    def begin(self) -> None:
        """Resets the corrections, as at the start."""
        last = self.actor[-1]
        assert isinstance(last, nn.Linear)
        for layer, bias in ((last, 0.0), (self.gate, GATE)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    @property
    def correcting(self) -> bool:
        """Whether actions may differ from the schedule."""
        last = self.actor[-1]
        assert isinstance(last, nn.Linear)
        layers = (last.weight, last.bias, self.gate.weight)
        return any(bool(layer.any()) for layer in layers) or float(self.gate.bias.detach()) > 0

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments that rebuild it, besides the sizes of the observations."""
        return {"width": self.width, **self.schedule.sizes}

    def corrected(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """log2 of the weights [B, K], logits of the gate [B] and values [B]."""
        mask = batch["mask"].bool()
        overview = batch["globals"].float()
        features = batch["knowledge"].float().reshape(*mask.shape, self.features)
        hidden, pool = self.encode(overview, features, mask)
        logits, values = self.judge(hidden, pool, overview)
        gate = self.gate(torch.cat([pool, overview], dim=-1)).squeeze(-1)
        logs = self.schedule.logs({**batch, "globals": overview, "knowledge": features.flatten(1)})
        return logs + BOUND * torch.tanh(logits), gate, values

    def distribution(self, batch: Mapping[str, Tensor]) -> tuple[Corrections, Tensor]:
        """The distribution of actions, and values [B]."""
        logs, gate, values = self.corrected(batch)
        mask = batch["mask"].bool()
        labels = batch["knowledge"].reshape(*mask.shape, self.features)[..., IS_LABELS] > 0
        means = (logs + DOUBLINGS) / (2 * DOUBLINGS)
        return Corrections(means, self.log_std, gate, mask, labels), values

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Entries [B, K] of `ackd.mdp.action_spaces.Weights`, the likeliest or a draw; 0 where masked."""
        actions = self.distribution(batch)[0].drawn(deterministic, generator)
        return entries(actions * (2 * DOUBLINGS) - DOUBLINGS, batch["mask"])

    def flops(self, types: int) -> float:
        """Floating-point operations of one forward pass for one observation of K types."""
        return super().flops(types) + 2.0 * self.gate.weight.numel() + self.schedule.flops(types)


class Corrections:
    """A distribution of actions: a gate, and normal entries if it is shut.

    The density is p if the gate is open, else (1 - p) prod N(u_k).

    Args:
        means: [B, K], means of the entries.
        log_std: 0-d, the same for all entries.
        gate: [B], logits.
        mask: [B, K] bool; a masked entry is 0 and adds nothing.
        labels: [B, K] bool, True for the labels.
    """

    def __init__(self, means: Tensor, log_std: Tensor, gate: Tensor, mask: Tensor, labels: Tensor) -> None:
        self.means, self.log_std, self.gate, self.mask, self.labels = means, log_std, gate, mask, labels

    def drawn(self, deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """[B, K], the means or a draw; if the gate opens, 1/2 for the labels and `OFF` for the types."""
        if deterministic:
            opened, each = self.gate > 0, self.means
        else:
            opened = torch.rand(self.gate.shape, generator=generator) < self.gate.sigmoid()
            each = self.means + self.log_std.exp() * torch.randn(self.means.shape, generator=generator)
        only_labels = torch.where(self.labels, torch.full_like(each, ONE), torch.full_like(each, OFF))
        return torch.where(opened.unsqueeze(1), only_labels, each.clamp_min(OFF / 2)).masked_fill(~self.mask, 0.0)

    def log_prob(self, actions: Tensor) -> Tensor:
        """The log-density of actions, [B]."""
        types = self.mask & ~self.labels
        opened = ((actions == OFF) | ~types).all(1) & types.any(1)
        scaled = (actions - self.means) * torch.exp(-self.log_std)
        density = -0.5 * scaled.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        shut = nn.functional.logsigmoid(-self.gate) + (density * self.mask).sum(1)
        return torch.where(opened, nn.functional.logsigmoid(self.gate), shut)

    def entropy(self) -> None:
        """Not known in closed form: stable-baselines3 estimates it from the log-probabilities."""
        return

    def sample(self) -> Tensor:
        """A draw."""
        return self.drawn(deterministic=False)

    def mode(self) -> Tensor:
        """The means, and the likelier side of the gate."""
        return self.drawn(deterministic=True)
