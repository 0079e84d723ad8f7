"""A policy over a set of knowledge types, independent of their number and order.

Works with stable-baselines3's unchanged A2C and PPO: `A2C(SetPolicy, env)`. The mask is read from the observation.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import BernoulliDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from ackd.agents.set_network import WIDTH, SetNetwork, likeliest, sampled
from ackd.errors import InputError


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
        raise InputError(f"the observation must be a Dict with globals, knowledge and mask, not {observation_space}")
    overview, knowledge = parts["globals"].shape, parts["knowledge"].shape
    assert overview is not None
    assert knowledge is not None
    return overview[0], knowledge[0] // types, types
