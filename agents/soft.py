"""Policies for stable-baselines3's DDPG, TD3 and SAC that give each knowledge type of a set a weight in [0, 1].

A weight w is the sigmoid of a logit. stable-baselines3 acts in [-1, 1] and scales this range to the action space. Since
tanh(x) = 2 * sigmoid(2x) - 1, its action is 2w - 1. The action of a masked type is exactly -1, which is weight 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import Tensor, nn

from ackd.agents.set_network import WIDTH, SetWeights
from ackd.agents.set_policy import set_sizes
from ackd.errors import InputError


class QNetwork(nn.Module):
    """The value Q of the weights of a set of knowledge types.

        h_k = f([globals, features_k, a_k, mean of a])    pool = mean of h_k    Q = q([pool, globals])

    Means are over available types, and a = 2w - 1. All types share f, so Q does not depend on their order, and the
    number of parameters does not depend on K. Masked types have no effect, whatever weights a buffer stores for them.

    Args:
        overview: G, numbers that describe the episode as a whole.
        features: F, numbers that describe each type.
        width: hidden width.

    References:
        Zaheer et al., Deep Sets, NeurIPS 2017, https://arxiv.org/abs/1703.06114
    """

    def __init__(self, overview: int, features: int, width: int = WIDTH) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(overview + features + 2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.value = nn.Sequential(nn.Linear(width + overview, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, observation: Mapping[str, Tensor], actions: Tensor) -> Tensor:
        """[B, 1] from batched observations and actions [B, K] in [-1, 1]."""
        mask = observation["mask"].to(actions.dtype).unsqueeze(-1)
        overview = observation["globals"].float()
        features = observation["knowledge"].float().reshape(*actions.shape, -1)
        rows = overview.unsqueeze(1).expand(-1, actions.shape[1], -1)
        each, count = actions.unsqueeze(-1), mask.sum(1).clamp(min=1.0)
        # Types that are chosen together share the student's capacity, so each type also reads the mean weight.
        mean = ((mask * each).sum(1) / count).unsqueeze(1).expand_as(each)
        pool = (mask * self.encoder(torch.cat([rows, features, each, mean], dim=-1))).sum(1) / count
        return cast(Tensor, self.value(torch.cat([pool, overview], dim=-1)))


class SetCritic(ContinuousCritic):
    """One or more `QNetwork`s in place of stable-baselines3's critics."""

    def __init__(self, width: int, n_critics: int, **kwargs: Any) -> None:
        super().__init__(**kwargs, n_critics=0)  # no networks of stable-baselines3
        overview, features, _ = sizes(self.observation_space, self.action_space)
        self.n_critics = n_critics
        self.networks = nn.ModuleList(QNetwork(overview, features, width) for _ in range(n_critics))

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """The value of each network, [B, 1]."""
        return tuple(network(obs, actions) for network in self.networks)

    def flops(self, types: int) -> float:
        """Floating-point operations of one network for one observation of K types: two for each weight it uses."""
        first = cast(QNetwork, self.networks[0])
        per_type, once = (
            sum(layer.weight.numel() for layer in part if isinstance(layer, nn.Linear))
            for part in (first.encoder, first.value)
        )
        return 2.0 * (types * per_type + once)

    def q1_forward(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """The value of the first network, [B, 1]."""
        return cast(Tensor, self.networks[0](obs, actions))


class Invertible(torch.autograd.Function):
    """The sigmoid w of logits, with a gradient that does not vanish at the ends of [0, 1].

        d logit = d w * (1 - w) where the gradient raises w,  d w * w where it lowers w

    The sigmoid's own gradient, d w * w (1 - w), almost vanishes when a weight is near 0 or 1, even at the wrong end. So
    a deterministic actor that moved to the wrong end early stays there.

    References:
        Hausknecht and Stone, Deep Reinforcement Learning in Parameterized Action Space, ICLR 2016,
        https://arxiv.org/abs/1511.04143
    """

    @staticmethod
    def forward(context: Any, logits: Tensor) -> Tensor:
        """The sigmoid."""
        weights = logits.sigmoid()
        context.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """The gradient of the logits, for a loss that is minimised."""
        (weights,) = context.saved_tensors
        return gradient * torch.where(gradient < 0, 1.0 - weights, weights)


def invertible(logits: Tensor) -> Tensor:
    """The sigmoid with the gradient of `Invertible`."""
    return cast(Tensor, Invertible.apply(logits))  # type: ignore[no-untyped-call]


class SetActor(td3.Actor):
    """A deterministic actor, [B, K] in [-1, 1]."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        _begin(self, kwargs)
        overview, features, _ = sizes(self.observation_space, self.action_space)
        self.network = SetWeights(overview, features, width)

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Actions [B, K] in [-1, 1]."""
        logits, _, mask = self.network.read(cast(Mapping[str, Tensor], obs))
        return 2.0 * invertible(logits).masked_fill(~mask, 0.0) - 1.0


class SetGaussian(sac.Actor):
    """A random actor: logits from independent normal distributions with the means of a `SetWeights`.

        logit_k ~ N(mean_k, sigma_k)    log sigma_k = linear in [globals, features_k], clamped

    The density of an action is over the available types; masked types add nothing to it.
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        _begin(self, kwargs)
        overview, features, _ = sizes(self.observation_space, self.action_space)
        self.network = SetWeights(overview, features, width)
        self.spread = nn.Linear(overview + features, 1)
        nn.init.zeros_(self.spread.weight)
        nn.init.zeros_(self.spread.bias)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions [B, K] in [-1, 1]: of the means, or a draw."""
        if deterministic:
            return 2.0 * self.network.act(cast(Mapping[str, Tensor], obs), deterministic=True) - 1.0
        return self.action_log_prob(obs)[0]

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """A draw [B, K] in [-1, 1], and the log of its density [B]: log N(logit) - log |d action / d logit|."""
        observation = cast(Mapping[str, Tensor], obs)
        means, _, mask = self.network.read(observation)
        features = observation["knowledge"].float().reshape(*mask.shape, -1)
        rows = observation["globals"].float().unsqueeze(1).expand(-1, mask.shape[1], -1)
        log_std = self.spread(torch.cat([rows, features], dim=-1)).squeeze(-1).clamp(-5.0, 2.0)
        noise = torch.randn_like(means)
        logits = means + log_std.exp() * noise
        logsigmoid = nn.functional.logsigmoid
        density = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        density = density - math.log(2.0) - logsigmoid(logits) - logsigmoid(-logits)  # a = 2 sigmoid(logit) - 1
        return 2.0 * logits.sigmoid().masked_fill(~mask, 0.0) - 1.0, (density * mask).sum(1)


def _begin(actor: BasePolicy, kwargs: Mapping[str, Any]) -> None:
    """Initialises an actor without stable-baselines3's networks, because their sizes depend on K."""
    names = ("observation_space", "action_space", "features_extractor", "normalize_images")
    BasePolicy.__init__(actor, **{name: kwargs[name] for name in names}, squash_output=True)


class _OverSets:
    """The common part of both policies: the check of the spaces, and the networks."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        *args: Any,
        width: int = WIDTH,
        **kwargs: Any,
    ) -> None:
        sizes(observation_space, action_space)
        self.width = width
        super().__init__(observation_space, action_space, *args, **kwargs)  # type: ignore[call-arg]  # the policy's

    @property
    def network(self) -> SetWeights:
        """The network of the actor, which can be saved; for SAC it gives the means."""
        return cast(SetActor | SetGaussian, cast(Any, self).actor).network

    @property
    def critics(self) -> SetCritic:
        """The critics."""
        return cast(SetCritic, cast(Any, self).critic)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new actor."""
        return self._made(SetGaussian if isinstance(self, sac.SACPolicy) else SetActor, "actor", features_extractor)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """New critics."""
        return self._made(SetCritic, "critic", features_extractor)

    def _made(self, kind: type[nn.Module], part: str, features_extractor: BaseFeaturesExtractor | None) -> nn.Module:
        policy = cast(Any, self)
        arguments = policy._update_features_extractor(getattr(policy, f"{part}_kwargs"), features_extractor)
        return kind(self.width, **arguments).to(policy.device)


class WeightsPolicy(_OverSets, td3.TD3Policy):
    """TD3's and DDPG's policy with a `SetActor` and a `SetCritic`.

    Args:
        width: hidden width of the networks.
        *args: arguments as passed by stable-baselines3.
        **kwargs: likewise; arguments of stable-baselines3's own networks have no effect.

    Raises:
        InputError: if the spaces are not `ackd.mdp.observations.Signals.space` and `Box(0, 1)`.
    """


class GaussianPolicy(_OverSets, sac.SACPolicy):
    """SAC's policy with a `SetGaussian` and a `SetCritic`; arguments as for `WeightsPolicy`."""


def sizes(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[int, int, int]:
    """G, F and K of the spaces."""
    if not (isinstance(action_space, spaces.Box) and (action_space.low == 0).all() and (action_space.high == 1).all()):
        raise InputError(f"weights need the action space Box(0, 1), not {action_space}")
    return set_sizes(observation_space, action_space.shape[0])
