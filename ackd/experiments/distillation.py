"""Distils one student under one policy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ackd.agents.policy import Policy
from ackd.agents.rules import Staged
from ackd.building.method import Types
from ackd.building.sources import Source, StudentSource, folder_of, several
from ackd.config import DistillationConfig
from ackd.costs import CostTracker
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import distill
from ackd.envs.recorder import BufferedRecorder, Drawing, Notes
from ackd.envs.recording import Recording
from ackd.errors import InputError
from ackd.experiments.beginning import Beginning
from ackd.experiments.comparison import Comparison, compare
from ackd.experiments.episodes import run_episode
from ackd.experiments.policies import REFINE, Arm, arm, name_of, of_object
from ackd.experiments.progress import progress, say
from ackd.experiments.results import check_converged, episode_result, origin_of, save_student
from ackd.experiments.tracking import plain
from ackd.mdp.rewards import Reward
from ackd.models import Model, Tokenizer
from ackd.runs.trackers import NONE, check_trackers, opened
from ackd.tasks import ComputeMetrics
from ackd.tasks.data_sets import Data, is_named
from ackd.training.replay_log import ReplayLog


def arm_of(env: DistillationEnv, policy: object, *, preset: str | None, open_ended: bool, refine: bool = False) -> Arm:
    """Returns the arm that decides in an environment.

    Args:
        env: the environment.
        policy: a name, a folder or a policy object; if None, the preset's stages, or else `all`.
        preset: the published method of the environment, if any.
        open_ended: True if no knowledge types were named: a preset without stages then needs a policy.
        refine: continue the training of a learned policy.

    Raises:
        InputError: if the policy is not known, or does not go with the preset.
    """
    staged = bool(env.distillation.stages)
    if staged and (policy is not None or refine):
        raise InputError(
            f"the preset {preset!r} says what is transferred when: leave --policy away, or name the types to select "
            "from with --knowledge"
        )
    if preset is not None and not staged and policy is None and open_ended:
        raise InputError(
            f"the preset {preset!r} leaves open what is transferred when: let an agent learn it with "
            f"`ackd train --preset {preset}`, and name that run with --policy; or name a rule"
        )
    if preset is not None and staged:
        return Arm(preset, lambda env, seed: Staged(env.distillation.stages))
    if policy is None or isinstance(policy, (str, Path)):
        return arm(str(policy or "all") + REFINE * refine, env.knowledge)
    return of_object(name_of(policy), policy, env.knowledge)


def acting(env: DistillationEnv, chosen: Arm, seed: int) -> tuple[DistillationEnv, Policy]:
    """Adapts the environment to a policy and makes the policy.

    Raises:
        InputError: if the policy looks ahead and there are several processes, or if the environment does not observe
            what the policy reads.
    """
    if chosen.forks and env.distillation.group.size > 1:
        raise InputError(
            f"the policy {chosen.name!r} copies the student to look ahead, which several processes cannot: run it "
            "in one process"
        )
    env = chosen.within(env)
    return env, chosen.make(env, seed)


def distil_one(
    env: DistillationEnv,
    policy: Policy,
    chosen: Arm,
    notes: Path | Notes,
    *,
    seed: int,
    replay_log: ReplayLog | None = None,
    quiet: bool = False,
) -> tuple[Recording, float]:
    """Trains one student for a whole episode; returns the recording and the seconds.

    Args:
        env: the environment, from `acting`.
        policy: the policy, from `acting`.
        chosen: the arm of the policy.
        notes: a run's folder, or another recorder of notes.
        seed: seed of the student.
        replay_log: the log to resume from.
        quiet: print nothing.
    """
    say(Beginning.of(env.distillation, rewarded=env.timetable.reward_every is not None).lines, quiet=quiet)
    started = time.perf_counter()
    with (
        progress(env.distillation.steps, f"distill ({chosen.name})", quiet=quiet) as bar,
        closing(Recording(env, notes, on_phase=bar.phase)) as recording,
    ):
        env.replay(replay_log)
        run_episode(recording, policy, seed=seed, learner=chosen.learner(policy))
    return recording, time.perf_counter() - started


@dataclass(frozen=True)
class Distilled:
    """The outcome of a student's training.

    Args:
        result: the fields of a run's `result.json`; scores are in percent.
        costs: FLOPs, bytes and seconds, by part of the training.
        decisions: the rows of a run's `decisions.csv`.
        comparison: the student beside its teacher: sizes, FLOPs, and latency on this machine.
    """

    result: Mapping[str, Any]
    costs: CostTracker
    decisions: Sequence[Mapping[str, Any]] = field(repr=False)
    comparison: Comparison = field(repr=False)

    @property
    def score(self) -> float:
        """The student's main metric on dev, in percent."""
        return float(self.result["dev_score"])

    @property
    def teacher_score(self) -> float | None:
        """The teacher's main metric on dev, in percent; None without a teacher."""
        score = self.result["teacher_score"]
        return None if score is None else float(score)

    @property
    def flops_share(self) -> float:
        """FLOPs of the training, as a share of transferring everything at every step."""
        return float(self.result["flops_share"])


class DistillationTrainer:
    """Distils one student from models and data, given as objects or by name.

    Args:
        teacher: a transformers model, which is then frozen and converted to float32, a folder or a hub id; or several
            teachers.
        student: a model, a config, a function that makes a model, a folder or a hub id to start from; if None,
            `args.student_layers` of the (first) teacher.
        tokenizer: tokenizer of models given as objects; if None, the one in their folder.
        train_dataset: a `datasets.Dataset` with text and label columns, a `DatasetDict`, or the name of a file, a
            folder or a data set of the hub. A part of the data is set aside for the reward.
        eval_dataset: the dev data; if None, the matching split of `train_dataset`, or else a part of it. For the task
            embeddings: scored pairs of sentences.
        task: a GLUE task or a generated one if no data is given; embeddings, for a sentence encoder; language, for a
            causal language model, whose `train_dataset` may be a text file or a list of texts; otherwise any name for
            the data.
        policy: `all`, another rule, types joined by +, the name or the folder of a saved policy, a `Selection`, a
            function from the `Episode` so far to a `Selection`, a policy from `train_agent`, or an agent of
            stable-baselines3; if None, the preset's stages, or else `all`.
        knowledge: knowledge types that can be selected, by name or as `Knowledge`; if empty, those in `args`.
        reward: the reward for a policy that learns in the run; if None, the one in `args`.
        compute_metrics: as for `ackd.prepare`.
        args: all other options.
        report_to: trackers that draw the curves: tensorboard, wandb, mlflow, trackio, or several of them.
        logging_dir: folder for TensorBoard's files; its last part names the run in other trackers.
        seed: seed of the student's initialisation, data order and dropout.
        quiet: print nothing, and measure no latency.

    Raises:
        InputError: in one sentence, if an argument cannot be used.

    Example:
        trainer = DistillationTrainer(teacher=model, tokenizer=tokenizer, train_dataset=data["train"],
                                      eval_dataset=data["validation"], policy="default",
                                      args=DistillationConfig(student_layers=3, epochs=3, lr=5e-5))
        print(trainer.train().score)
        trainer.save("student")
    """

    def __init__(
        self,
        *,
        teacher: Source | Sequence[Source] = (),
        student: StudentSource | None = None,
        tokenizer: Tokenizer | None = None,
        train_dataset: Data | None = None,
        eval_dataset: Data | None = None,
        task: str = "data",
        policy: object = None,
        knowledge: Types = (),
        reward: str | Reward | None = None,
        compute_metrics: ComputeMetrics | None = None,
        args: DistillationConfig | None = None,
        report_to: str | Sequence[str] = NONE,
        logging_dir: str | Path = "runs/distill",
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        if args is not None and not isinstance(args, DistillationConfig):
            raise InputError(f"args is a {type(args).__name__}: give an ackd.DistillationConfig")
        self.args, self.seed, self.quiet = args or DistillationConfig(), seed, quiet
        self._trackers = check_trackers([report_to] if isinstance(report_to, str) else report_to)
        self._logging_dir = Path(logging_dir)
        self._sources, self._start, self._data, self._task = several(teacher), student, train_dataset, task
        own = {"student": student, "data": train_dataset, "dev_data": eval_dataset, "reward": reward}
        own["compute_metrics"] = compute_metrics
        settings = asdict(self.args) | {name: value for name, value in own.items() if value is not None}
        settings["knowledge"] = knowledge or self.args.knowledge
        self._made = distill(task=task, teacher=teacher, tokenizer=tokenizer, reward_every=None, **settings)
        preset, open_ended = self.args.preset, not settings["knowledge"]
        self._arm = arm_of(self._made, policy, preset=preset, open_ended=open_ended)
        self._env, _ = acting(self._made, self._arm, seed)
        self._recording: Recording | None = None
        self._result: dict[str, Any] = {}

    @property
    def student(self) -> Model:
        """The student: untrained, or trained after `train`."""
        return self._env.distillation.student.model

    def train(self) -> Distilled:
        """Trains the student from its first step to the end of its budget.

        Raises:
            FloatingPointError: if the training diverges.
        """
        self._env, policy = acting(self._made, self._arm, self.seed)  # a learning policy starts again
        asked = {**asdict(self.args), "policy": self._arm.name, "task": self._task, "seed": self.seed}
        options = {"command": "distill"} | plain(asked)
        with opened(self._trackers, self._logging_dir, self._logging_dir.resolve().name, options) as curves:
            tape = BufferedRecorder(0, drawing=Drawing(curves, self._env.knowledge))
            self._recording, seconds = distil_one(self._env, policy, self._arm, tape, seed=self.seed, quiet=self.quiet)
            self._result = episode_result(self._recording, policy=self._arm.name, seconds=round(seconds, 3))
            check_converged(self._result, self._env.distillation)
            curves.result(self._result)
        decisions = [note.row for note in tape.take() if note.row]
        spent = self._recording.costs
        compared = compare(self._env.distillation, self._result, spent, timed=not self.quiet)
        say(compared.table(), quiet=self.quiet)
        return Distilled(self._result, spent, decisions, compared)

    def save(self, folder: str | Path) -> None:
        """Saves the student in the Hugging Face format, with tokenizer, class names and a model card.

        Raises:
            InputError: if `train` has not run yet.
        """
        if self._recording is None:
            raise InputError("there is no student to save yet: call train() first")
        start, data = self._start, self._data
        named = {
            "teacher": [folder_of(one) or type(one).__name__ for one in self._sources],
            "student": None if start is None else folder_of(start) or type(start).__name__,
            "data": str(data) if data is not None and is_named(data) else None,
        }
        origin = origin_of(self._recording, self._result)
        save_student(Path(folder), asdict(self.args) | named, self._env.distillation, origin)
