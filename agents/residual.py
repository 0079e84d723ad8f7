"""An actor-critic that corrects a schedule, so that it starts as good as the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ackd.agents.residual_network import Corrections, ResidualNetwork
from ackd.agents.schedule import KNOTS
from ackd.agents.set_policy import SetPolicy, set_sizes
from ackd.errors import InputError


class CorrectionsDistribution(Corrections, Distribution):
    """`Corrections` with the interface of stable-baselines3."""

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        """Not used: the network is `ResidualNetwork`."""
        raise NotImplementedError

    def proba_distribution(self, *args: Any, **kwargs: Any) -> Any:
        """Not used: the constructor takes all parameters."""
        raise NotImplementedError

    def actions_from_params(self, *args: Any, **kwargs: Any) -> Tensor:
        """Not used."""
        raise NotImplementedError

    def log_prob_from_params(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Not used."""
        raise NotImplementedError


class ResidualPolicy(SetPolicy):
    """stable-baselines3's actor-critic policy with a `ResidualNetwork`.

    Args:
        *args: arguments as passed by stable-baselines3.
        values: [knots, families], values of the corrected schedule; all weights 1 if None.
        **kwargs: as for `SetPolicy`.

    Raises:
        InputError: if the spaces are not `ackd.mdp.observations.Signals.space` and `Box(0, 1)`.
    """

    network: ResidualNetwork

    def __init__(self, *args: Any, values: Sequence[Sequence[float]] | None = None, **kwargs: Any) -> None:
        self.values = values
        super().__init__(*args, **kwargs)

    def _check(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[int, int, int]:
        if not isinstance(action_space, spaces.Box) or action_space.shape is None:
            raise InputError(f"ResidualPolicy gives weights, so the action space must be a Box, not {action_space}")
        return set_sizes(observation_space, action_space.shape[0])

    def _made(self) -> ResidualNetwork:
        return ResidualNetwork(*self.sizes, KNOTS if self.values is None else len(self.values), self.values)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"values": self.network.schedule.values.tolist()}

    def _read(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        assert isinstance(obs, dict)  # the space is a Dict
        one, values = self.network.distribution(obs)
        return CorrectionsDistribution(one.means, one.log_std, one.gate, one.mask, one.labels), values.unsqueeze(1)
