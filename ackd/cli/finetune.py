"""`ackd finetune`: fine-tunes a teacher for a task."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ackd.cli.said import long
from ackd.experiments.student_options import FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class Finetune(FinetuneConfig):
    """Fine-tune a model on a task's labels, as a teacher for the other commands."""

    def about(self) -> str:
        """The work in a few words."""
        return f"fine-tune {self.model or 'a small model'} on {self.task} for {long(self)}"

    def run(self) -> None:
        """Trains the model, evaluates it on dev, and saves it under OUTPUT/model."""
        from ackd.experiments.finetuning import MODEL, Finetuning
        from ackd.experiments.trained import ending

        finetuning = Finetuning(self)
        trained = finetuning.run()
        result, place = trained.result, finetuning.folder.path / MODEL
        print(f"{self.task}: {result['metric']} {result['dev_score']:.2f} on dev after {result['steps']} steps")
        print(ending(trained, place, self.text_columns))
        if self.data is None and trained.comparison is not None:
            layers = max(trained.comparison.student.size.layers // 2, 1)
            words = ["ackd", "distill", "--task", self.task, "--teacher", self.output, "--student-layers", str(layers)]
            print(f"distil it: {shlex.join(words)} --output FOLDER")
        print(f"teacher: {place}")
