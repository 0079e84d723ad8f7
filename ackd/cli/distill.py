"""`ackd distill`: one student under one policy."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass

from ackd.cli.options import DataOptions, OutputOptions, StudentOptions, progress


@dataclass(kw_only=True)
class Distill(DataOptions, StudentOptions, OutputOptions):
    """Distil one student, with knowledge selected by a rule or by a saved policy."""

    task: str
    """A GLUE task, a generated one (polarity, tally), or any name where --data is a file."""
    teacher: tuple[str, ...]
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach side by side."""
    teacher_weights: tuple[float, ...] = ()
    """What each teacher's losses count; 1 each if not given."""
    preset: str | None = None
    """A published method with its losses, weights and stages: kd, pkd-skip, pkd-last, tinybert, minilm, minilmv2,
    distilbert, rkd."""
    policy: str | None = None
    """labels, all, random, random-held, scheduled, types joined by + (logits+hidden), or a saved policy's folder;
    all if neither this nor --preset is given."""
    seed: int = 0
    """Seed of the student's initialisation, data order and dropout."""

    def run(self) -> None:
        """Trains, reports on dev, and saves the student under OUTPUT/student."""
        from ackd.agents.rules import Staged
        from ackd.cli.episodes import policy_of, run_episode
        from ackd.cli.results import finish
        from ackd.envs.make import distill
        from ackd.envs.recording import Recording
        from ackd.errors import InputError
        from ackd.models import load_tokenizer
        from ackd.runs import RunFolder

        inputs = (*self.teacher, self.student, self.data, self.policy, self.cache)
        folder = RunFolder(self.output, overwrite=self.overwrite, inputs=inputs)
        if self.preset is not None and self.policy is not None:
            raise InputError(f"the preset {self.preset!r} says what is transferred when: leave --policy away")
        env = distill(
            task=self.task,
            teacher=self.teacher,
            teacher_weights=self.teacher_weights,
            preset=self.preset,
            **self.data_settings(),
            **self.student_settings(),
        )
        name = self.preset or self.policy or "all"
        policy = Staged(env.distillation.stages) if self.preset else policy_of(name, env, seed=self.seed)
        folder.begin("distill", asdict(self))
        started = time.perf_counter()
        with (
            progress(self.steps, f"distill ({name})") as bar,
            closing(Recording(env, folder.path, on_decision=bar.update)) as recording,
        ):
            run_episode(recording, policy, seed=self.seed)
        seconds = time.perf_counter() - started
        finish(folder, recording, load_tokenizer(self.teacher[0]), policy=name, seconds=seconds)
        print(f"curves:  tensorboard --logdir {folder.path}")
