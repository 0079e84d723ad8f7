"""`ackd distill`: one student under one policy."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ackd.cli.options import DataOptions, MethodOptions, RunOptions, StudentOptions, progress

if TYPE_CHECKING:
    from ackd.distributed.process_group import Group
    from ackd.envs.distillation import DistillationEnv
    from ackd.runs.folder import RunFolder

# What may differ between processes: paths, and what the first one alone goes by.
OWN = {"output", "overwrite", "resume", "checkpoint_seconds", "policy", "refine", "cache", "cache_budget"}
OWN |= {"teacher", "student", "data", "dev_data"}


@dataclass(kw_only=True)
class Distill(DataOptions, StudentOptions, MethodOptions, RunOptions):
    """Distil one student, with knowledge selected by a rule or by a saved policy."""

    task: str
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: tuple[str, ...] = ()
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach side by side; some
    presets need none."""
    teacher_weights: tuple[float, ...] = ()
    """What each teacher's losses count; 1 each if not given."""
    policy: str | None = None
    """labels, all, random, random-held, random-weights, scheduled, types joined by + (logits+hidden), a policy of the
    store (`ackd policies list`), a saved policy's folder, or a bandit that learns in the run (ucb, thompson, exp3);
    all if neither this nor --preset is given."""
    refine: bool = False
    """Adapt the weights of the learned policy in --policy inside this run, by a doubling at most."""
    seed: int = 0
    """Seed of the student's initialisation, data order and dropout."""

    def run(self) -> None:
        """Trains, reports on dev, and saves the student under OUTPUT/student."""
        from ackd.distributed.process_group import joined

        with joined(self.device) as group:
            self._run(group)

    def _run(self, group: Group) -> None:
        """The first process writes, the others follow it."""
        from ackd.distributed.process_group import device_of, follow
        from ackd.envs.make import distill
        from ackd.experiments.data_parallel import join

        folder = None
        if group.rank == 0:
            folder = self.run_folder((*self.teacher, self.student, self.data, self.policy, self.cache))
        if group.tell(folder is not None and self.finished(folder, "distill")):
            return
        setting = {**self.data_settings(), **self.student_settings(), **self.method_settings()}
        env = distill(
            task=self.task,
            teacher=self.teacher,
            teacher_weights=self.teacher_weights,
            reward_every=None,
            **setting | {"device": device_of(self.device)},
        )
        join(env.distillation, group, self._shared())
        if folder is not None:
            self._distil(env, folder)
        follow(env.distillation)

    def _shared(self) -> dict[str, Any]:
        """The options that have to be the same in every process; data and models are compared as they are."""
        return {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items() if name not in OWN}

    def _distil(self, env: DistillationEnv, folder: RunFolder) -> None:
        from ackd.agents.refine import Refining
        from ackd.agents.rules import Staged
        from ackd.building.sources import find_tokenizer
        from ackd.cli.arms import REFINE, Arm, arm
        from ackd.cli.episodes import run_episode
        from ackd.cli.results import finish, save_refined
        from ackd.envs.recording import Recording
        from ackd.errors import InputError

        staged = bool(env.distillation.stages)
        if staged and (self.policy is not None or self.refine):
            raise InputError(
                f"the preset {self.preset!r} says what is transferred when: leave --policy away, or name the types to "
                "select from with --knowledge"
            )
        if self.preset is not None and not staged and self.policy is None and not self.knowledge:
            raise InputError(
                f"the preset {self.preset!r} leaves open what is transferred when: let an agent learn it with "
                f"`ackd train --preset {self.preset}`, and name that run with --policy; or name a rule"
            )
        if self.preset is not None and staged:
            chosen = Arm(self.preset, lambda env, seed: Staged(env.distillation.stages))
        else:
            chosen = arm((self.policy or "all") + REFINE * self.refine, env.knowledge)
        if chosen.forks and env.distillation.group.size > 1:
            raise InputError(
                f"the policy {chosen.name!r} copies the student to look ahead, which several processes cannot: run it "
                "in one process"
            )
        env = chosen.within(env)
        policy = chosen.make(env, self.seed)
        folder.begin("distill", asdict(self))
        started = time.perf_counter()
        with (
            progress(env.distillation.steps, f"distill ({chosen.name})") as bar,
            closing(Recording(env, folder.path, on_decision=bar.update)) as recording,
        ):
            journal = None if chosen.forks else self.journal(folder.path / "checkpoint")
            env.replay(journal)
            run_episode(recording, policy, seed=self.seed, learner=chosen.learner(policy))
        seconds = time.perf_counter() - started
        tokenizer = find_tokenizer(self.task, self.teacher, self.student)
        if isinstance(policy, Refining) and chosen.learned is not None:
            save_refined(folder.path / "policy", policy, chosen.learned.card)
        finish(folder, recording, tokenizer, policy=chosen.name, seconds=seconds)
        if journal is not None:
            journal.finish()
        print(f"curves:  tensorboard --logdir {folder.path}")
