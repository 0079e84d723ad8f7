"""The options of run folders, trackers, evaluations, agents and caches."""

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
    """Folder for the run; it must not contain a run yet."""
    overwrite: Common[bool] = False
    """Replace the run in --output."""
    quiet: bool = False
    """Print only results and warnings: no announcement, no progress bar, no measured latency."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder; nothing is written yet.

        Args:
            inputs: the run's inputs; names that are not paths are allowed.

        Raises:
            InputError: if the folder cannot be used.
        """
        from ackd.runs.folder import RunFolder

        return RunFolder(self.output, overwrite=self.overwrite, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class ResumableConfig(OutputConfig):
    """A run that can be resumed."""

    resume: Common[bool] = False
    """Continue the killed run in --output; start it if there is none."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder; nothing is written yet.

        Raises:
            InputError: if the folder cannot be used.
        """
        from ackd.distributed.rendezvous import restarted
        from ackd.runs.folder import RunFolder

        again = restarted()  # a lost process restarts in the middle of a run
        return RunFolder(
            self.output, overwrite=self.overwrite and not again, inputs=inputs, resume=self.resume or again
        )

    def finished(self, folder: RunFolder, command: str, *, growing: Collection[str] = (), **changed: Any) -> bool:
        """Whether the run in the folder is finished.

        Args:
            folder: the run's folder.
            command: as for `RunFolder.begin`.
            growing: as for `RunFolder.begin`.
            **changed: settings passed to `begin` with other values than in the options.

        Raises:
            InputError: if the folder contains another run, or its result is damaged.
        """
        return folder.finished(command, asdict(self) | changed, growing=growing)


@dataclass(frozen=True, kw_only=True)
class RunConfig(ResumableConfig):
    """A training with checkpoints."""

    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints; a killed run loses no more than this."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder; nothing is written yet.

        Raises:
            InputError: if the folder cannot be used, or the time between checkpoints is below 0.
        """
        from ackd.errors import InputError

        if not self.checkpoint_seconds >= 0:
            raise InputError(f"--checkpoint-seconds is {self.checkpoint_seconds}: give 0 or more")
        return super().run_folder(inputs)

    def replay_log(self, folder: Path) -> ReplayLog:
        """The replay log in a folder; a run resumes from it."""
        from ackd.training.replay_log import ReplayLog

        return ReplayLog(folder, seconds=self.checkpoint_seconds)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """The trackers of a run's curves."""

    report_to: tuple[str, ...] = ("tensorboard",)
    """Trackers that draw the curves: tensorboard (files in the run's folder), wandb, mlflow, trackio, several of these,
    or none."""

    def shown(self, folder: object) -> str:
        """A line that explains how to view the curves of a run; empty without trackers."""
        names = self.trackers()
        if "tensorboard" in names:
            return f"curves:  tensorboard --logdir {folder}"
        return f"curves:  in {', '.join(names)}" if names else ""

    def trackers(self) -> tuple[str, ...]:
        """The trackers, each once.

        Raises:
            InputError: if a tracker is unknown or not installed.
        """
        from ackd.runs.trackers import check_trackers

        return check_trackers(self.report_to)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(DataConfig, StudentConfig, EpisodeConfig, WorkerConfig, TrackingConfig, RunConfig):
    """Distil a student for each task, policy and seed, and tabulate the results.

    --resume extends a table: add policies, tasks or seeds, and only the missing students are trained. With several
    --workers, each worker trains one student at a time.
    """

    tasks: Common[tuple[str, ...]] = ()
    """One or more tasks."""
    teachers: Common[tuple[str, ...]] = ()
    """A teacher for each task, in the same order; commas join several teachers of a task (SMALL,LARGE). With
    --instances: the folder that contains the teachers."""
    instances: str | None = None
    """A JSON file of settings, or a built-in set (embedded-v1, glue-small-v1), instead of --tasks. Each instance is a
    row of the table, with its own seeds."""
    splits: tuple[str, ...] = ()
    """Splits of the instances to use; all if none is named."""
    policies: Common[tuple[str, ...]] = ("labels", "all", "random", "scheduled")
    """Rules, types joined by +, saved policies (folder, name, or hf:USER/REPO on the hub; :refine at the end
    continues their training in the run), bandits that learn in the run (ucb, thompson, exp3), lookahead (tries
    every subset before each decision), best-static (the best fixed subset, found beforehand with other seeds), or
    preset: followed by a published method and its options, with colons between (preset:kd,
    preset:dynamickd-data:keep=0.1). NAME=POLICY uses NAME for the policy in tables, pictures and folders
    (agent=runs/train/policy)."""
    seeds: Common[int] = 3
    """Students for each task and policy; all policies start from the same students."""
    first_seed: int = 1000
    """The first seed; the default differs from the usual seeds of agent training."""
    search_tries: int = 16
    """Most subsets that best-static tries."""
    search_seeds: int = 1
    """Students for each subset that best-static tries, from seed 0 on."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig(DistillationConfig, WorkerConfig, TrackingConfig, RunConfig):
    """Train a selection agent over several students' trainings, then distil one student with the learned policy."""

    task: Common[str | None] = None
    """A GLUE task, a generated one (polarity, tally, digits), embeddings, language, or any name for your own data."""
    teacher: Common[tuple[str, ...]] = ()
    """The teacher: folder of a fine-tuned model, a run that contains one, or a hub id. Several teachers may be
    given."""
    instances: Common[str | None] = None
    """A JSON file of settings to learn on, or a built-in set (embedded-v1, glue-small-v1), instead of --task and
    --teacher. Values in the set take precedence over the options here."""
    split: str = "train"
    """Split of the instances to learn on."""
    teachers: str | None = None
    """Folder that contains the teachers of --instances."""
    order: str = "round-robin"
    """Order of the instances: round-robin or sampled."""
    agent: Common[str | None] = None
    """Learning algorithm. Schedules: residual (a schedule by cem, corrected by PPO); cem, best-schedule (Optuna's TPE)
    or pbt (a schedule alone; the students of pbt are one population and train together); probe-rule (a schedule by
    cem, with labels alone once the student seems to overtake the teacher). Subsets: a2c, ppo. Weights: ddpg, td3, sac,
    ksm. Bandits: ucb, thompson, exp3. Default: ksm with --preset ksm, and residual otherwise."""
    agent_options: tuple[str, ...] = ()
    """Settings of ksm as NAME=VALUE, such as phase=4 or hard=yes; docs/systems/ksm.md lists them."""
    episodes: Common[int] = 8
    """Number of students that the agent learns from, each trained for --steps."""
    students: Common[int] = 1
    """Number of students that train together, in one batched step on the same batches."""
    policy_name: str = "policy"
    """Name of the policy for `ackd policies import`."""
    seed: Common[int] = 0
    """Seed of the agent and of its episodes."""

    @property
    def algorithm(self) -> str:
        """The learning algorithm, named or default."""
        return self.agent or ("ksm" if self.preset == "ksm" else "residual")

    @property
    def at_once(self) -> int:
        """Number of students that train together in one batched step."""
        from ackd.agents.learner import side_by_side

        return side_by_side(self.algorithm, self.students, self.episodes)

    @property
    def settings(self) -> Settings | None:
        """The settings in --agent-options."""
        from ackd.agents.learner import settings_of
        from ackd.building.method import pairs

        return settings_of(self.algorithm, pairs(self.agent_options))


@dataclass(frozen=True, kw_only=True)
class FillConfig(DataConfig, ModelConfig, KnowledgeConfig, WorkerConfig):
    """Run a teacher on a task's training data and store its outputs, for every later run with --cache."""

    task: Common[str]
    """A GLUE task, a generated one (polarity, tally, digits), embeddings, language, or any name for your own data."""
    teacher: Common[tuple[str, ...]]
    """One or several teachers: folder of a fine-tuned model, a run that contains one, or a hub id."""
    output: Common[str]
    """The cache's folder; existing entries are kept, and missing ones are added."""
    preset: Common[str | None] = None
    """Store the outputs that this published method needs, instead of --knowledge."""
    budget: str = "4GB"
    """Most disk space for one teacher's outputs; the smaller knowledge types are stored first."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format in the cache; outputs are rounded to it."""
    batch_size: int = 32
    """Examples in a batch of the teacher."""
    shard: str | None = None
    """Part of the examples to process, 1/4 to 4/4 for example; processes with different parts fill one cache at the
    same time. Under torchrun, each process takes its part automatically."""
