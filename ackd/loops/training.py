"""A callback of `transformers.Trainer` that creates, steps, saves and restores a balancer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from ackd.errors import InputError
from ackd.loops.balancer import Balancer

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

FILE = "balancer.pt"  # in a checkpoint's folder


class BalancerCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Runs a balancer in a `transformers.Trainer`.

    Args:
        policy: as of `ackd.Balancer`.
        losses: the names of the losses.
        options: other arguments of `ackd.Balancer`; the steps come from the trainer.

    Raises:
        InputError: if the policy cannot weigh these losses.
    """

    def __init__(self, policy: object, losses: Sequence[str], options: Mapping[str, Any]) -> None:
        self._policy, self._options = policy, {**options, "losses": losses, "accumulate": None}
        # checks the arguments now; an evaluation before the training uses its weights
        self.balancer = Balancer(policy, total_steps=1, **self._options)
        self.resumed: Path | None = None  # the checkpoint to resume, if it is not in the trainer's output folder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Creates the balancer for the steps of this training; a resumed training restores its state.

        Raises:
            InputError: if the checkpoint contains no balancer's state.
        """
        self.balancer = Balancer(self._policy, total_steps=state.max_steps, **self._options)
        if not state.global_step:
            return
        folder = self.resumed or _checkpoint(args, state)
        if not (folder / FILE).is_file():
            raise InputError(f"{folder} has no {FILE}: its training had no balancer, so it cannot be resumed with one")
        self.balancer.load_state_dict(torch.load(folder / FILE, weights_only=True))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Counts an optimizer step."""
        self.balancer.end_step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds the balancer to the checkpoint."""
        if state.is_world_process_zero:
            torch.save(self.balancer.state_dict(), _checkpoint(args, state) / FILE)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
