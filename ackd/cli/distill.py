"""`ackd distill`: distils one student under one policy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ackd.cli.said import few, long, nothing_left
from ackd.config import Common, DistillationConfig, part
from ackd.experiments.options import RunConfig, TrackingConfig

if TYPE_CHECKING:
    from ackd.distributed.process_group import Group
    from ackd.envs.distillation import DistillationEnv
    from ackd.runs.folder import RunFolder

# Options that may differ between processes: paths, and options that only the first process uses.
OWN = {"output", "overwrite", "resume", "quiet", "report_to", "checkpoint_seconds", "policy", "refine", "cache"}
OWN |= {"cache_budget", "cache_device_memory", "teacher", "student", "data", "dev_data"}


@dataclass(frozen=True, kw_only=True)
class Distill(DistillationConfig, TrackingConfig, RunConfig):
    """Distil one student, with knowledge selected by a rule or by a saved policy."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), embeddings, language, or any name for your own data."""
    teacher: Common[tuple[str, ...]] = ()
    """The teacher: folder of a fine-tuned model, a run that contains one, or a hub id. Several teachers may be given;
    some presets need none."""
    policy: Common[str | None] = None
    """labels, all, random, random-held, random-weights, scheduled, types joined by + (logits+hidden), the name of a
    stored policy (`ackd policies list`), a saved policy's folder, hf:USER/REPO or hf:USER/REPO@REVISION on the hub, or
    a bandit that learns in the run (ucb, thompson, exp3); all if neither --policy nor --preset is given."""
    refine: bool = False
    """Adapt the weights of the learned policy in --policy during this run, by a factor of two at most."""
    seed: Common[int] = 0
    """Seed of the student's initialisation, data order and dropout."""

    def about(self) -> str:
        """The work in a few words."""
        how = f"preset {self.preset}" if self.preset is not None else f"policy {self.policy or 'all'}"
        return f"distil {few(self.teacher, 'labels')} into a student on {self.task}, {how}, for {long(self)}"

    def run(self) -> None:
        """Trains the student, evaluates it on dev, and saves it under OUTPUT/student."""
        from ackd.distributed.process_group import automatic, joined

        device = automatic(self.device)
        with joined(device) as group:
            self._run(group, device)

    def _run(self, group: Group, device: str) -> None:
        """Runs the training; the first process writes the files, the others follow it."""
        from ackd.distributed.process_group import device_of, follow
        from ackd.envs.make import distill
        from ackd.experiments.data_parallel import join

        own, folder = self, None
        self.trackers()
        if group.rank == 0:
            folder = self.run_folder((*self.teacher, self.student, self.data, self.policy, self.cache))
            own = self._pinned(folder)
        if group.broadcast(folder is not None and own.finished(folder, "distill")):
            if folder is not None:
                nothing_left(self.output)
            return
        env = distill(
            task=self.task,
            teacher=self.teacher,
            reward_every=None,
            **part(self, DistillationConfig) | {"device": device_of(device)},
        )
        join(env.distillation, group, self._shared())
        if folder is not None:
            own._distil(env, folder)
        follow(env.distillation)

    def _pinned(self, folder: RunFolder) -> Distill:
        """The options, with the commit of a policy on the hub; a resumed run keeps its commit."""
        from ackd.agents.store import pinned

        policy = self.policy and pinned(self.policy, [folder.recorded("policy")])
        return self if policy == self.policy else replace(self, policy=policy)

    def _shared(self) -> dict[str, Any]:
        """The options that must be equal in every process; data and models are compared by content."""
        return {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items() if name not in OWN}

    def _distil(self, env: DistillationEnv, folder: RunFolder) -> None:
        from contextlib import closing

        from ackd.agents.refine import OnlineFinetuning
        from ackd.envs.recorder import Recorder
        from ackd.experiments.distillation import acting, arm_of, distil_one
        from ackd.experiments.results import finish, said, save_refined
        from ackd.experiments.tracking import curves_of

        open_ended = not self.knowledge
        chosen = arm_of(env, self.policy, preset=self.preset, open_ended=open_ended, refine=self.refine)
        env, policy = acting(env, chosen, self.seed)
        folder.begin("distill", asdict(self))
        replay_log = None if chosen.forks else self.replay_log(folder.path / "checkpoint")
        with (
            curves_of(self, folder, policy=chosen.name) as curves,
            closing(Recorder(folder.path, env.knowledge, curves)) as recorder,
        ):
            told: dict[str, Any] = {"seed": self.seed, "replay_log": replay_log, "quiet": self.quiet}
            recording, seconds = distil_one(env, policy, chosen, recorder, **told)
            if isinstance(policy, OnlineFinetuning) and chosen.learned is not None:
                print(save_refined(folder.path / "policy", policy, chosen.learned.card))
            how: dict[str, Any] = {"policy": chosen.name, "seconds": seconds, "timed": not self.quiet}
            result, compared = finish(folder, recording, **how)
            curves.result(result)
        print(said(result, recording.costs, folder.path / "student", compared, self.text_columns))
        if replay_log is not None:
            replay_log.finish()
        print(self.shown(folder.path))
