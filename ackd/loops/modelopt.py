"""A loss balancer for distillation with NVIDIA's ModelOpt."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ackd.loops.balancer import Balancer

try:
    from modelopt.torch.distill import DistillationLossBalancer
    from modelopt.torch.distill.loss_balancers import STUDENT_LOSS_KEY
except ImportError as error:
    raise ImportError("ackd.loops.modelopt needs NVIDIA's ModelOpt: pip install 'ackd[modelopt]'") from error


class PolicyLossBalancer(DistillationLossBalancer):  # type: ignore[misc]  # modelopt has no types
    """A `loss_balancer` for `modelopt.torch.distill.convert`, with weights from a policy.

    The name of a loss is its class and its index in `criterion`, such as MSELoss_0; its family is derived from the
    class. The state dict contains the balancer's state; loading one without it, such as a plain student's, changes
    nothing.

    Args:
        policy: as of `ackd.Balancer`.
        total_steps: optimizer steps of the whole training.
        losses: the names of the losses, with "student_loss"; if empty, those of the first call.
        families: the family of each loss, by the loss's name, if it cannot be derived from the name.
        labels: the name of the label loss; None if `compute_kd_loss` gets no `student_loss`.
        **options: other arguments of `ackd.Balancer`.

    Raises:
        InputError: if the policy cannot weigh these losses; without names, this is raised in the first call.

    References:
        https://github.com/NVIDIA/Model-Optimizer
    """

    def __init__(
        self,
        policy: object = "default",
        *,
        total_steps: int,
        losses: Sequence[str] = (),
        families: Mapping[str, str] | None = None,
        labels: str | None = STUDENT_LOSS_KEY,
        **options: Any,
    ) -> None:
        super().__init__()
        named = {"losses": losses, "families": families, "labels": labels}
        self.balancer = Balancer(policy, total_steps=total_steps, **{**options, **named})
        self.register_load_state_dict_pre_hook(_allow_no_state)

    def forward(self, loss: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the losses, after the reduction of the student's loss if a function for it is set.

        Raises:
            InputError: as of `ackd.Balancer`.
        """
        losses, reduce = dict(loss), self._student_loss_reduction_fn
        if reduce is not None and STUDENT_LOSS_KEY in losses:
            losses[STUDENT_LOSS_KEY] = reduce(losses[STUDENT_LOSS_KEY])
        total: Tensor = self.balancer(losses)
        return total

    def get_extra_state(self) -> Tensor:
        """The balancer's state as bytes, uint8 [N], for all checkpoint formats; N is 0 before the first step."""
        file = io.BytesIO()
        if self.balancer.steps_done:
            torch.save(self.balancer.state_dict(), file)
        return torch.tensor(list(file.getvalue()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the state from `get_extra_state`.

        Raises:
            InputError: if it is of another policy or training.
        """
        if state.numel():
            file = io.BytesIO(state.cpu().numpy().tobytes())
            self.balancer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))


def _allow_no_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state.setdefault(f"{prefix}_extra_state", torch.empty(0, dtype=torch.uint8))
