"""The network of policies over a set of knowledge types, independent of their number and order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

WIDTH = 64


class SetNetwork(nn.Module):
    """A logit for each knowledge type and one value for all of them.

        h_k = f([globals, features_k])    pool = mean of h_k over available types
        logit_k = g([h_k, pool])          value = v([pool, globals])

    f, g and v are shared by all types, so the number of parameters does not depend on K; permuting the types permutes
    the logits and leaves the value. Masked types affect neither.

    Args:
        overview: G, numbers that describe the episode as a whole.
        features: F, numbers that describe each type.
        width: hidden width.

    References:
        Zaheer et al., Deep Sets, NeurIPS 2017, https://arxiv.org/abs/1703.06114
    """

    kind: ClassVar[str] = "set"

    def __init__(self, overview: int, features: int, width: int = WIDTH) -> None:
        super().__init__()
        self.overview, self.features, self.width = overview, features, width
        self.encoder = nn.Sequential(
            nn.Linear(overview + features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.actor = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1))
        self.critic = nn.Sequential(nn.Linear(width + overview, width), nn.Tanh(), nn.Linear(width, 1))
        # A small last layer: every probability starts near 1/2, and every value near 0.
        for part, last in ((self.encoder, math.sqrt(2)), (self.actor, 0.01), (self.critic, 0.01)):
            layers = [layer for layer in part if isinstance(layer, nn.Linear)]
            for layer in layers:
                nn.init.orthogonal_(layer.weight, last if layer is layers[-1] else math.sqrt(2))
                nn.init.zeros_(layer.bias)

    def forward(self, overview: Tensor, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and values [B] from globals [B, G], features [B, K, F] and mask [B, K].

        The logits of masked types are arbitrary, so apply the mask before drawing from them.
        """
        hidden, pool = self.encode(overview, features, mask)
        return self.judge(hidden, pool, overview)

    def encode(self, overview: Tensor, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states h [B, K, width] and their pool [B, width]."""
        weights = mask.to(features.dtype).unsqueeze(-1)
        rows = overview.unsqueeze(1).expand(-1, features.shape[1], -1)
        hidden = self.encoder(torch.cat([rows, features], dim=-1))
        return hidden, (weights * hidden).sum(1) / weights.sum(1).clamp(min=1.0)

    def judge(self, hidden: Tensor, pool: Tensor, overview: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and values [B] from the results of `encode`."""
        logits = self.actor(torch.cat([hidden, pool.unsqueeze(1).expand_as(hidden)], dim=-1))
        values = self.critic(torch.cat([pool, overview], dim=-1))
        return logits.squeeze(-1), values.squeeze(-1)

    def read(self, observation: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, K], values [B] and mask [B, K] as bool, from batched tensors as in `ackd.mdp.observations`."""
        mask = observation["mask"].bool()
        overview = observation["globals"].float()
        features = observation["knowledge"].float().reshape(*mask.shape, self.features)
        logits, values = self(overview, features, mask)
        return logits, values, mask

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments that rebuild it, besides the sizes of the observations."""
        return {"width": self.width}

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Bits [B, K], the likeliest or a draw; 0 where masked."""
        logits, _, mask = self.read(batch)
        return likeliest(logits, mask) if deterministic else sampled(logits, mask, generator)

    def flops(self, types: int) -> float:
        """Floating-point operations of one forward pass for one observation of K types: two for each weight it uses."""
        per_type, once = (
            sum(layer.weight.numel() for part in parts for layer in part if isinstance(layer, nn.Linear))
            for parts in ((self.encoder, self.actor), (self.critic,))
        )
        return 2.0 * (types * per_type + once)


class SetWeights(SetNetwork):
    """A `SetNetwork` that returns its probabilities as weights of the types, without random draws."""

    kind: ClassVar[str] = "set-weights"

    def act(self, batch: Mapping[str, Tensor], deterministic: bool, generator: torch.Generator | None = None) -> Tensor:
        """Weights [B, K] from 0 to 1; 0 where masked."""
        logits, _, mask = self.read(batch)
        return logits.sigmoid().masked_fill(~mask, 0.0)


def sampled(logits: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent draws [B, K] with probability sigmoid(logit), 0 where masked."""
    device = logits.device if generator is None else generator.device
    draws = torch.rand(logits.shape, generator=generator, device=device)
    return ((draws.to(logits.device) < logits.sigmoid()) & mask).to(logits.dtype)


def likeliest(logits: Tensor, mask: Tensor) -> Tensor:
    """[B, K], 1 where the probability is above 1/2, 0 where masked."""
    return ((logits > 0) & mask).to(logits.dtype)
