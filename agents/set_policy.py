"""A policy over a set of knowledge types, independent of their number and order.

Works with stable-baselines3's unchanged A2C and PPO: `A2C(SetPolicy, env)`. The mask is read from the observation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import BernoulliDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from ackd.errors import InputError

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

        The logits of masked types mean nothing, so apply the mask before drawing from them.
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
    """A `SetNetwork` that gives its probabilities as weights of the types, without random draws."""

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


class MaskedBernoulli(BernoulliDistribution):
    """Independent bits; a masked bit is always 0 and adds nothing to log-probability or entropy."""

    mask: Tensor
    logits: Tensor

    def masked(self, logits: Tensor, mask: Tensor) -> MaskedBernoulli:
        """This distribution with logits [B, K] and mask [B, K]."""
        self.mask = mask
        self.logits = logits.masked_fill(~mask, 0.0)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """[B], summed over the available bits."""
        signs = 2.0 * actions.float() - 1.0
        return (nn.functional.logsigmoid(signs * self.logits) * self.mask).sum(1)

    def entropy(self) -> Tensor:
        """[B], summed over the available bits."""
        softplus = nn.functional.softplus(self.logits)  # minus the log of the probability of 0
        return ((softplus - self.logits * self.logits.sigmoid()) * self.mask).sum(1)

    def sample(self) -> Tensor:
        """[B, K], 0 where masked."""
        return sampled(self.logits, self.mask)

    def mode(self) -> Tensor:
        """[B, K], 0 where masked."""
        return likeliest(self.logits, self.mask)


class SetPolicy(ActorCriticPolicy):
    """stable-baselines3's actor-critic policy with a `SetNetwork` and a masked Bernoulli action.

    Args:
        observation_space: as `ackd.mdp.observations.Signals.space`.
        action_space: `MultiBinary(K_max)`.
        lr_schedule: as passed by stable-baselines3.
        width: hidden width of the network.
        **kwargs: further arguments of `ActorCriticPolicy`; arguments of its own networks have no effect.

    Raises:
        InputError: if the spaces are of another kind.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        width: int = WIDTH,
        **kwargs: Any,
    ) -> None:
        overview, features, self.bits = self._check(observation_space, action_space)
        self.sizes = (overview, features, width)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _check(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[int, int, int]:
        """G, F and K of the spaces."""
        return _sizes(observation_space, action_space)

    def _made(self) -> SetNetwork:
        return SetNetwork(*self.sizes)

    def _build(self, lr_schedule: Schedule) -> None:
        self.network = self._made()
        self.action_dist = MaskedBernoulli(self.bits)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]  # every torch optimizer takes lr
            **self.optimizer_kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"width": self.network.width}

    def _read(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        assert isinstance(obs, dict)  # the space is a Dict, see _sizes
        logits, values, mask = self.network.read(obs)
        return MaskedBernoulli(logits.shape[1]).masked(logits, mask), values.unsqueeze(1)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [B, K], values [B, 1] and log-probabilities [B]."""
        distribution, values = self._read(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values [B, 1], log-probabilities [B] and entropies [B]."""
        distribution, values = self._read(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """The distribution of the actions."""
        return self._read(obs)[0]

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        actions = self.get_distribution(observation).get_actions(deterministic=deterministic)
        return actions.to(torch.int8) if isinstance(self.action_space, spaces.MultiBinary) else actions

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values [B, 1]."""
        return self._read(obs)[1]


def _sizes(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[int, int, int]:
    """G, F and K of the spaces."""
    if not isinstance(action_space, spaces.MultiBinary):
        raise InputError(f"SetPolicy chooses subsets, so the action space must be MultiBinary, not {action_space}")
    return set_sizes(observation_space, action_space.shape[0])


def set_sizes(observation_space: spaces.Space[Any], types: int) -> tuple[int, int, int]:
    """G, F and K of observations for actions of K entries.

    Raises:
        InputError: if globals, knowledge or mask is missing.
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    if not {"globals", "knowledge", "mask"} <= parts.keys():
        raise InputError(f"globals, knowledge and mask of a Dict observation are read, not {observation_space}")
    overview, knowledge = parts["globals"].shape, parts["knowledge"].shape
    assert overview is not None
    assert knowledge is not None
    return overview[0], knowledge[0] // types, types
