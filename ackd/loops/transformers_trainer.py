"""A `transformers.Trainer` with several losses, weighed by a `Balancer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from ackd.loops.balancer import Balancer
from ackd.loops.training import BalancerCallback
from ackd.types import LABELS

Losses = Callable[[nn.Module, Mapping[str, Any], frozenset[str]], tuple[Mapping[str, Tensor], Any]]


class BalancedTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """A `Trainer` that learns from several losses, with weights from a policy.

    Checkpoints contain the balancer's state, and logs contain `weight/NAME` and `loss/NAME`.

    Args:
        *args: arguments of `Trainer`.
        compute_losses: takes the model, the inputs of a batch and the names of the wanted losses. Returns the losses by
            name, each the mean over the batch, and the model's outputs. Losses that are not wanted may be left out.
        losses: the names of the losses.
        policy: as of `ackd.Balancer`.
        labels: the name of the label loss; None if there is none.
        balancer_options: other arguments of `ackd.Balancer`; steps and learning rate come from the trainer.
        **options: other arguments of `Trainer`.

    Raises:
        InputError: if the policy cannot weigh these losses.

    References:
        https://huggingface.co/docs/transformers/main_classes/trainer
    """

    def __init__(
        self,
        *args: Any,
        compute_losses: Losses,
        losses: Sequence[str],
        policy: object = "default",
        labels: str | None = LABELS,
        balancer_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.compute_losses = compute_losses
        self.balancing = BalancerCallback(policy, losses, {"labels": labels, **(balancer_options or {})})
        super().__init__(*args, **options)
        self.model_accepts_loss_kwargs = False  # the losses are means, so the trainer averages accumulated batches
        self.add_callback(self.balancing)

    @property
    def balancer(self) -> Balancer:
        """The balancer of the training."""
        return self.balancing.balancer

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Trains like `Trainer.train`; a checkpoint also restores the balancer.

        Raises:
            InputError: if a checkpoint contains no balancer's state.
        """
        named = resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None
        self.balancing.resumed = Path(named) if named is not None else None
        return super().train(resume_from_checkpoint, *args, **options)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted sum of the losses."""
        losses, outputs = self.compute_losses(model, inputs, self.balancer.wanted)
        rate = self.lr_scheduler.get_last_lr()[0] if self.lr_scheduler is not None else None
        loss = self.balancer(losses, learning_rate=rate)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Logs like `Trainer.log`, in training also the balancer's numbers."""
        super().log({**logs, **(self.balancer.log() if "loss" in logs else {})}, *args, **options)
