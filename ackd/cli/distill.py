"""`ackd distill`: one student under one policy."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from ackd.cli.options import DataOptions, OutputOptions, StudentOptions, progress


@dataclass(kw_only=True)
class Distill(DataOptions, StudentOptions, OutputOptions):
    """Distil one student, with knowledge selected by a rule or by a saved policy."""

    task: str
    """A GLUE task, a generated one (polarity, tally), or any name where --data is a file."""
    teacher: str
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id."""
    policy: str = "all"
    """labels, all, random, random-held, scheduled, types joined by + (logits+hidden), or a saved policy's folder."""
    seed: int = 0
    """Seed of the student's initialisation, data order and dropout."""

    def run(self) -> None:
        """Trains, reports on dev, and saves the student under OUTPUT/student."""
        from ackd.cli.episodes import policy_of, run_episode
        from ackd.cli.results import finish
        from ackd.envs.make import distill
        from ackd.envs.recording import Recording
        from ackd.models import load_tokenizer
        from ackd.runs import RunFolder

        folder = RunFolder(
            self.output, overwrite=self.overwrite, inputs=(self.teacher, self.student, self.data, self.policy)
        )
        env = distill(task=self.task, teacher=self.teacher, **self.data_settings(), **self.student_settings())
        policy = policy_of(self.policy, env, seed=self.seed)
        folder.begin("distill", asdict(self))
        started = time.perf_counter()
        with progress(self.steps, f"distill ({self.policy})") as bar:
            recording = Recording(env, folder.path, on_decision=bar.update)
            run_episode(recording, policy, seed=self.seed)
        seconds = time.perf_counter() - started
        finish(folder, recording, load_tokenizer(self.teacher), policy=self.policy, seconds=seconds)
        print(f"curves:  tensorboard --logdir {folder.path}")
