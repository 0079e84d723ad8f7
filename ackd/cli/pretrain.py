"""`ackd pretrain`: pre-trains a small causal language model on a corpus."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import nothing_left
from ackd.experiments.language_options import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Pretrain(PretrainConfig):
    """Pre-train a causal language model on text, with or without a teacher's next-token distributions."""

    def about(self) -> str:
        """The work in a few words."""
        return f"pre-train {self.student or 'a language model'} on {self.corpus}"

    def run(self) -> None:
        """Trains the model, reports the held-out loss, and saves the model under OUTPUT/student."""
        from ackd.experiments.pretraining import Pretraining
        from ackd.experiments.trained import ending

        training = Pretraining(self)
        if training.finished:
            nothing_left(self.output)
            return
        trained, place = training.run(), training.folder.path / "student"
        result = trained.result
        beside = f" (teacher {result['teacher_loss']:.4f})" if self.teacher is not None else ""
        print(
            f"held-out loss {result['dev_loss']:.4f} a token{beside}, perplexity {result['dev_perplexity']:.2f}, after "
            f"{result['steps']} steps, {result['tokens']} tokens, {result['flops']:.3g} FLOPs"
        )
        print(f"{ending(trained, place)}\nstudent: {place}")
