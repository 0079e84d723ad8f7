"""`ackd finetune`: a teacher for a task."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.experiments.student_options import FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class Finetune(FinetuneConfig):
    """Fine-tune a model on a task's labels, as a teacher for the other commands."""

    def run(self) -> None:
        """Trains, reports on dev, and saves the model under OUTPUT/model."""
        from ackd.experiments.finetuning import MODEL, Finetuning

        finetuning = Finetuning(self)
        result = finetuning.run().result
        print(f"{self.task}: {result['metric']} {result['dev_score']:.2f} on dev after {result['steps']} steps")
        print(f"teacher: {finetuning.folder.path / MODEL}")
