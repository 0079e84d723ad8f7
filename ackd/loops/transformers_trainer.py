"""A `transformers.Trainer` whose losses a `Balancer` weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ackd.errors import InputError
from ackd.loops.balancer import Balancer
from ackd.types import LABELS

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FILE = "balancer.pt"  # in a checkpoint's folder
Losses = Callable[[nn.Module, Mapping[str, Any], frozenset[str]], tuple[Mapping[str, Tensor], Any]]


class BalancedTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """A `Trainer` that learns from several losses, with weights from a policy.

    Checkpoints contain the balancer's state, and logs contain `weight/NAME` and `loss/NAME`.

    Args:
        *args: of `Trainer`.
        compute_losses: takes the model, the inputs of a batch and the names of the wanted losses. Returns the losses by
            name, each the mean over the batch, and the model's outputs. Losses that are not wanted may be left out.
        losses: the names of the losses.
        policy: as of `ackd.Balancer`.
        labels: the name of the label loss; None if there is none.
        balancer_options: other arguments of `ackd.Balancer`; steps and learning rate come from the trainer.
        **options: of `Trainer`.

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
        self._arguments = {"losses": losses, "labels": labels, "accumulate": None, **(balancer_options or {})}
        self._policy = policy
        # checks the arguments now; an evaluation before the training uses its weights
        self.balancer = Balancer(self._policy, total_steps=1, **self._arguments)
        super().__init__(*args, **options)
        self.model_accepts_loss_kwargs = False  # the losses are means, so the trainer averages accumulated batches
        self._resumed: Path | None = None
        self.add_callback(BalancerCallback(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Trains like `Trainer.train`; a checkpoint also restores the balancer.

        Raises:
            InputError: if a checkpoint has no state of a balancer.
        """
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(str(self.args.output_dir))
        self._resumed = Path(folder) / FILE if isinstance(folder, str) else None
        if self._resumed is not None and not self._resumed.is_file():
            raise InputError(f"{folder} has no {FILE}: it is not a checkpoint of a BalancedTrainer")
        return super().train(resume_from_checkpoint, *args, **options)

    def begin(self, steps: int) -> None:
        """Makes the balancer for a training of so many optimizer steps."""
        self.balancer = Balancer(self._policy, total_steps=steps, **self._arguments)
        if self._resumed is not None:
            self.balancer.load_state_dict(torch.load(self._resumed, weights_only=True))

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


class BalancerCallback(TrainerCallback):  # type: ignore[misc]
    """Begins, steps and saves the balancer of a trainer."""

    def __init__(self, trainer: BalancedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The number of steps is known now."""
        self.trainer.begin(state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One optimizer step more."""
        self.trainer.balancer.end_step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds the balancer to the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            torch.save(self.trainer.balancer.state_dict(), folder / FILE)
