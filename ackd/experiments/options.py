"""Where a run goes and who does its work; and what can be set of an evaluation and of an agent that learns."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ackd.config import (
    Common,
    DataConfig,
    DistillationConfig,
    EpisodeConfig,
    KnowledgeConfig,
    ModelConfig,
    StudentConfig,
)
from ackd.experiments.workers import WorkerConfig

if TYPE_CHECKING:
    from ackd.agents.ksm import Settings
    from ackd.runs.folder import RunFolder
    from ackd.training.replay_log import ReplayLog


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where a run goes."""

    output: Common[str]
    """Folder for the run; it must not hold one yet."""
    overwrite: Common[bool] = False
    """Replace the run in --output."""
    quiet: bool = False
    """Say nothing but results and warnings: no line of what is about to happen, no bar, no measured latency."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Args:
            inputs: what the run reads, names that are no paths included.

        Raises:
            InputError: if it cannot be used.
        """
        from ackd.runs.folder import RunFolder

        return RunFolder(self.output, overwrite=self.overwrite, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class ResumableConfig(OutputConfig):
    """A run that can be taken up again."""

    resume: Common[bool] = False
    """Go on with the run in --output, where it was killed; begin it if there is none."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Raises:
            InputError: if it cannot be used.
        """
        from ackd.distributed.rendezvous import restarted
        from ackd.runs.folder import RunFolder

        again = restarted()  # after a loss, and so in the middle of the run
        return RunFolder(
            self.output, overwrite=self.overwrite and not again, inputs=inputs, resume=self.resume or again
        )

    def finished(self, folder: RunFolder, command: str, *, growing: Collection[str] = (), **changed: Any) -> bool:
        """Whether there is nothing left to do in the run's folder.

        Args:
            folder: the run's.
            command: as its `begin` is told.
            growing: likewise.
            **changed: settings that `begin` is told otherwise than the options have them.

        Raises:
            InputError: if the folder holds another run, or its result is damaged.
        """
        return folder.finished(command, asdict(self) | changed, growing=growing)


@dataclass(frozen=True, kw_only=True)
class RunConfig(ResumableConfig):
    """A training, which leaves checkpoints."""

    checkpoint_seconds: float = 60.0
    """Training between two checkpoints: what is lost at most, when the run is killed."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Raises:
            InputError: if it cannot be used, or the time between checkpoints is below 0.
        """
        from ackd.errors import InputError

        if not self.checkpoint_seconds >= 0:
            raise InputError(f"--checkpoint-seconds is {self.checkpoint_seconds}: give 0 or more")
        return super().run_folder(inputs)

    def replay_log(self, folder: Path) -> ReplayLog:
        """The replay log in a folder, from which a run resumes."""
        from ackd.training.replay_log import ReplayLog

        return ReplayLog(folder, seconds=self.checkpoint_seconds)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Who draws a run's curves."""

    report_to: tuple[str, ...] = ("tensorboard",)
    """Who draws the curves: tensorboard (files in the run's folder), wandb, mlflow, trackio, several of these, or
    none."""

    def shown(self, folder: object) -> str:
        """The line that says how to look at the curves of a run in a folder; empty if nobody draws them."""
        names = self.trackers()
        if "tensorboard" in names:
            return f"curves:  tensorboard --logdir {folder}"
        return f"curves:  in {', '.join(names)}" if names else ""

    def trackers(self) -> tuple[str, ...]:
        """The trackers, each once.

        Raises:
            InputError: if one is not known or not installed.
        """
        from ackd.runs.trackers import check_trackers

        return check_trackers(self.report_to)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(DataConfig, StudentConfig, EpisodeConfig, WorkerConfig, TrackingConfig, RunConfig):
    """Distil a student for each task, policy and seed, and tabulate what came out.

    With --resume a table grows: name more policies, tasks or seeds, and only what is missing is trained. Several
    --workers train a student each at a time.
    """

    tasks: Common[tuple[str, ...]] = ()
    """One or more tasks."""
    teachers: Common[tuple[str, ...]] = ()
    """A teacher for each task, in the same order, or several of them with commas between (SMALL,LARGE); with
    --instances, the folder where the names of the set start."""
    instances: str | None = None
    """Instead of --tasks: a JSON file of settings, or a set that comes along (embedded-v1, glue-small-v1). Each of its
    instances is a row of the table, with seeds of its own."""
    splits: tuple[str, ...] = ()
    """The instances of these splits; all if none is named."""
    policies: Common[tuple[str, ...]] = ("labels", "all", "random", "scheduled")
    """Rules, types joined by +, saved policies (folder, name in the store, or hf:USER/REPO on the hub; with :refine
    after it to go on learning in the run), bandits that learn in the run (ucb, thompson, exp3), lookahead (tries every
    subset ahead of each decision), best-static (the best fixed subset, searched with other seeds first), or preset:
    with a published method and its options behind colons (preset:kd, preset:dynamickd-data:keep=0.1). NAME=POLICY calls
    one of them NAME in tables, pictures and folders (agent=runs/train/policy)."""
    seeds: Common[int] = 3
    """Students for each task and policy; all policies get the same ones."""
    first_seed: int = 1000
    """The first of the seeds; apart from those that agents are usually trained on."""
    search_tries: int = 16
    """Subsets that best-static tries at most."""
    search_seeds: int = 1
    """Students for each of them, from seed 0 on."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig(DistillationConfig, WorkerConfig, TrackingConfig, RunConfig):
    """Train a selection agent over several students' trainings, then distil one student with what it learned."""

    task: Common[str | None] = None
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: Common[tuple[str, ...]] = ()
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach side by side."""
    instances: Common[str | None] = None
    """Instead of --task and --teacher: a JSON file of settings to learn on, or a set that comes along (embedded-v1,
    glue-small-v1); what the set says goes before the options here."""
    split: str = "train"
    """The instances of this split."""
    teachers: str | None = None
    """Folder from which the teachers' names in --instances start."""
    order: str = "round-robin"
    """In which instances follow each other: round-robin or sampled."""
    agent: Common[str | None] = None
    """Learning algorithm: residual (a schedule by cem, corrected by PPO); cem, best-schedule (Optuna's TPE) or pbt (a
    schedule alone; all students of pbt are one population, which trains side by side); probe-rule (a schedule by cem,
    but the labels alone where the teacher seems to be overtaken); a2c, ppo (subsets); ddpg, td3, sac, ksm (weights);
    ucb, thompson, exp3 (bandits). It is ksm with --preset ksm, and residual otherwise."""
    agent_options: tuple[str, ...] = ()
    """Of ksm, its settings as NAME=VALUE, such as phase=4 or hard=yes; docs/systems/ksm.md lists them."""
    episodes: Common[int] = 8
    """Students that the agent learns from, each trained for --steps."""
    students: Common[int] = 1
    """So many of them train side by side, in one batched step on the same batches."""
    policy_name: str = "policy"
    """What `ackd policies import` will call the policy."""
    seed: Common[int] = 0
    """Seed of the agent and of its episodes."""

    @property
    def algorithm(self) -> str:
        """The learning algorithm, also where none is named."""
        return self.agent or ("ksm" if self.preset == "ksm" else "residual")

    @property
    def at_once(self) -> int:
        """Students that train side by side in one batched step."""
        from ackd.agents.learner import side_by_side

        return side_by_side(self.algorithm, self.students, self.episodes)

    @property
    def settings(self) -> Settings | None:
        """What --agent-options says."""
        from ackd.agents.learner import settings_of
        from ackd.building.method import pairs

        return settings_of(self.algorithm, pairs(self.agent_options))


@dataclass(frozen=True, kw_only=True)
class FillConfig(DataConfig, ModelConfig, KnowledgeConfig, WorkerConfig):
    """Ask a teacher about a task's training data and keep the answers, for every later run with --cache."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: Common[tuple[str, ...]]
    """The teacher, or several: folder of a fine-tuned model, a run that holds one, or a hub id."""
    output: Common[str]
    """The cache's folder; what it holds already is kept, and what is missing is added."""
    preset: Common[str | None] = None
    """Instead of --knowledge: keep what this published method asks for."""
    budget: str = "4GB"
    """What one teacher's answers may take; the smaller knowledge types come first."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Numbers in the cache; the answers are rounded to them."""
    batch_size: int = 32
    """Examples that the teacher is asked about at a time."""
    shard: str | None = None
    """Ask about one part of the examples alone, as 1/4 to 4/4: processes that have one each fill the same cache at the
    same time. Those that torchrun starts take theirs by themselves."""
