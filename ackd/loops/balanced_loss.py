"""A weighted sum of losses as a `torch.nn.Module`, with weights from a `Balancer`, for sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ackd.loops.balancer import Balancer
from ackd.loops.training import BalancerCallback
from ackd.types import LABELS


class BalancedLoss(nn.Module):
    """The weighted sum of losses of the same input.

    A trainer of `transformers` or sentence-transformers needs `callback` among its callbacks, which sets the number of
    steps, and saves and restores the balancer with the checkpoints.

    Args:
        loss: a module that returns the losses by name; or modules by name, each of which returns one loss.
        losses: the names of the losses; if empty, those of the modules in `loss`.
        policy: as of `ackd.Balancer`.
        labels: the name of the label loss; None if there is none.
        **options: other arguments of `ackd.Balancer`.

    Raises:
        InputError: if the policy cannot weigh these losses.

    References:
        https://sbert.net/docs/sentence_transformer/loss_overview.html
    """

    def __init__(
        self,
        loss: nn.Module | Mapping[str, nn.Module],
        losses: Sequence[str] = (),
        policy: object = "default",
        labels: str | None = LABELS,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss = loss if isinstance(loss, nn.Module) else nn.ModuleDict(dict(loss))
        names = list(losses) or (list(self.loss) if isinstance(self.loss, nn.ModuleDict) else [])
        self.callback = BalancerCallback(policy, names, {"labels": labels, **options})

    @property
    def balancer(self) -> Balancer:
        """The balancer of the training."""
        return self.callback.balancer

    def forward(self, *args: Any, **named: Any) -> Tensor:
        """The weighted sum; of modules by name, only those with a weight above 0 run.

        Raises:
            InputError: as of `ackd.Balancer`.
        """
        if isinstance(self.loss, nn.ModuleDict):
            wanted = self.balancer.wanted
            losses = {name: one(*args, **named) for name, one in self.loss.items() if name in wanted}
        else:
            losses = self.loss(*args, **named)
        total: Tensor = self.balancer(losses)
        return total
