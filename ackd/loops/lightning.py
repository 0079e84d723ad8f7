"""A Lightning callback that adds a `Balancer` to a `LightningModule`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ackd.errors import InputError
from ackd.loops.balancer import Balancer

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("ackd.loops.lightning needs Lightning: pip install 'ackd[lightning]'") from error


class BalancerCallback(Callback):  # type: ignore[misc]  # mypy does not read its types
    """Sets `balancer` of a `LightningModule`, whose `training_step` returns `self.balancer({"labels": ce, ...})`.

    Steps and learning rate come from the trainer. Checkpoints contain the balancer's state, and logs contain
    `weight/NAME` and `loss/NAME`.

    Args:
        policy: as of `ackd.Balancer`.
        losses: the names of the losses, required to use `wanted` before the first call; if empty, those of the first
            call.
        **options: other arguments of `ackd.Balancer`.

    Raises:
        InputError: if the policy cannot weigh these losses; without names, this is raised in the first call.

    References:
        https://lightning.ai/docs/pytorch/stable/extensions/callbacks.html
    """

    def __init__(self, policy: object = "default", losses: Sequence[str] = (), **options: Any) -> None:
        self._make = partial(Balancer, policy, losses=losses, **{**options, "accumulate": None})
        self.balancer = self._make(total_steps=1)  # checks the arguments now; weighs in evaluations before the training
        self._saved: dict[str, Any] = {}  # the state to restore
        self._steps = 0  # the trainer's steps at the end of the balancer's last step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the module its balancer."""
        self._saved, pl_module.balancer = {}, self.balancer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Creates the balancer for the steps of this training; a resumed training restores its state.

        Raises:
            InputError: if the steps are not known, or the checkpoint is of another policy or has no balancer's state.
        """
        steps, self._steps = trainer.estimated_stepping_batches, trainer.global_step
        if not 0 < steps < float("inf"):
            raise InputError("the length of this training is not known: give max_steps= or max_epochs= to the Trainer")
        if trainer.ckpt_path and self._steps and not self._saved:
            raise InputError(f"{trainer.ckpt_path} has no state of a balancer: it cannot be resumed with one")
        self.balancer = pl_module.balancer = self._make(total_steps=int(steps))
        if self._saved:
            self.balancer.load_state_dict(self._saved)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Tells the balancer the learning rate."""
        self.balancer.learning_rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Counts a step if the optimizer stepped, and logs the balancer's numbers.

        Raises:
            InputError: if the module does not call its balancer.
        """
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        self.balancer.end_step()
        if self.balancer.steps_done:
            pl_module.log_dict(self.balancer.log())
        elif outputs or not pl_module.automatic_optimization:  # otherwise the module skipped the batch
            name = type(pl_module).__name__
            raise InputError(f"{name}.training_step does not call self.balancer: return its weighted sum of the losses")

    def state_dict(self) -> dict[str, Any]:
        """The balancer's state, for the checkpoint."""
        return self.balancer.state_dict() if self.balancer.steps_done else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state of a checkpoint until the training begins."""
        self._saved = state_dict
