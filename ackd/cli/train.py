"""`ackd train`: an agent that learns what to select."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.cli.options import DataOptions, MethodOptions, RunOptions, StudentOptions, pairs, progress
from ackd.cli.workers import GROWING, WorkerOptions

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv
    from tqdm import tqdm

    from ackd.agents.ksm import Settings
    from ackd.agents.learner import Learner
    from ackd.envs.distillation import DistillationEnv
    from ackd.envs.hosted import Watch
    from ackd.envs.instance_files import Instance
    from ackd.envs.instances import InstanceEnv
    from ackd.envs.recorder import Note, Recorder
    from ackd.ledger import Ledger
    from ackd.runs.folder import RunFolder
    from ackd.training.journal import Journal

# what only this machine knows or cares about; a policy's file is there to be shared
PRIVATE = {"output", "overwrite", "resume", "checkpoint_seconds", "data", "dev_data", "device", "cache", "teachers"}
PRIVATE |= {"workers", *GROWING}


@dataclass(kw_only=True)
class Train(DataOptions, StudentOptions, MethodOptions, WorkerOptions, RunOptions):
    """Train a selection agent over several students' trainings, then distil one student with what it learned."""

    task: str | None = None
    """A GLUE task, a generated one (polarity, tally, digits), or any name for data of your own."""
    teacher: tuple[str, ...] = ()
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach side by side."""
    teacher_weights: tuple[float, ...] = ()
    """What each teacher's losses count; 1 each if not given."""
    instances: str | None = None
    """Instead of --task and --teacher: a JSON file of settings to learn on, or a set that comes along (embedded-v1,
    glue-small-v1); what the set says goes before the options here."""
    split: str = "train"
    """The instances of this split."""
    teachers: str | None = None
    """Folder from which the teachers' names in --instances start."""
    order: str = "round-robin"
    """In which instances follow each other: round-robin or sampled."""
    agent: str | None = None
    """Learning algorithm: residual (a schedule by cem, corrected by PPO); cem, best-schedule (Optuna's TPE) or pbt (a
    schedule alone; all students of pbt are one population, which trains side by side); probe-rule (a schedule by cem,
    but the labels alone where the teacher seems to be overtaken); a2c, ppo (subsets); ddpg, td3, sac, ksm (weights);
    ucb, thompson, exp3 (bandits). It is ksm with --preset ksm, and residual otherwise."""
    agent_options: tuple[str, ...] = ()
    """Of ksm, its settings as NAME=VALUE, such as phase=4 or hard=yes; docs/systems/ksm.md lists them."""
    episodes: int = 8
    """Students that the agent learns from, each trained for --steps."""
    students: int = 1
    """So many of them train side by side, in one batched step on the same batches."""
    policy_name: str = "policy"
    """What `ackd policies import` will call the policy."""
    seed: int = 0
    """Seed of the agent and of its episodes."""

    def run(self) -> None:
        """Trains the agent, distils a student with it, and saves both."""
        from ackd.agents.card import check_name
        from ackd.agents.learner import choice_of
        from ackd.envs.recorder import Recorder

        if self.serves():
            return
        folder = self.run_folder((*self.teacher, self.student, self.data, self.cache, self.instances))
        if self.finished(folder, "train", growing=GROWING, workers=self.count):
            self.dismiss()
            return
        self._check()
        choice_of(self.algorithm, self.settings)
        check_name(self.policy_name)
        env, instances = self.environment()
        folder.begin("train", {**asdict(self), "workers": self.count}, growing=GROWING)
        shutil.rmtree(folder.path / "tensorboard", ignore_errors=True)  # a resumed run draws its curves anew
        journal = self.journal(folder.path / "checkpoint")
        single = not instances
        with (
            progress((self.episodes + single) * env.distillation.steps, f"train ({self.algorithm})") as bar,
            closing(Recorder(folder.path, env.knowledge)) as recorder,
        ):
            learner, ledger = self._learn(env, recorder, folder, journal, bar)
            cost = {
                "episodes": self.episodes,
                "student_steps": ledger.steps * self.at_once,
                "flops": sum(ledger.flops.values()),
                "seconds": round(sum(ledger.seconds.values()), 3),
            }
            if single:
                self._distil(learner, env, recorder, folder, journal, bar, cost, ledger)
            else:
                self._save(folder, learner, env, instances, {"episodes": self.episodes}, cost)
                folder.write_json("ledger.json", ledger.as_dict())
                folder.write_json(
                    "result.json", {"policy": self.algorithm, "instances": [one.name for one in instances]} | cost
                )
        journal.finish()
        print(f"policy:  {folder.path / 'policy'}\ncurves:  tensorboard --logdir {folder.path}")

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

        return settings_of(self.algorithm, pairs(self.agent_options))

    def _check(self) -> None:
        from ackd.agents.learner import check_learner, observes_cls
        from ackd.errors import InputError

        if (self.instances is None) == (self.task is None):
            raise InputError("say what to learn on: --task and --teacher, or --instances, and not both")
        if self.task is not None and not self.teacher:
            raise InputError(f"the task {self.task} has no teacher: name one with --teacher")
        if self.instances is not None and (self.preset is not None or self.options):
            raise InputError(f"the instances of {self.instances} say what is selected from: leave --preset away")
        if self.episodes < 1 or self.students < 1:
            raise InputError(
                f"{self.episodes} episodes of {self.students} students at a time teach nothing: give 1 or more"
            )
        self.check_workers(self.device)
        check_learner(self.algorithm, episodes=self.episodes, remote=self.remote)
        a_round = self.at_once * self.count
        if self.episodes % a_round:
            what = f"cohorts of {self.students} students" if self.count == 1 else f"rounds of {a_round} students"
            raise InputError(
                f"{self.episodes} episodes are no whole number of {what}: "
                f"give {-(-self.episodes // a_round) * a_round} episodes"
            )
        if self.students > 1 and observes_cls(self.algorithm):
            raise InputError(
                f"{self.algorithm} reads first-token states, which a cohort does not show: leave --students away"
            )
        if self.students > 1 and self.order != "round-robin":
            raise InputError("cohorts take instances in turn: leave --order or --students away")

    def environment(
        self, turns: tuple[int, int] = (0, 1)
    ) -> tuple[DistillationEnv | InstanceEnv, tuple[Instance, ...]]:
        """Where the agent learns, and the instances, if that is what it learns on; `turns` are those of a worker."""
        from ackd.agents.learner import by_return, choice_of, observes_cls
        from ackd.cli.instances import check_instances
        from ackd.envs.instance_files import over, read_instances
        from ackd.envs.instances import InstanceEnv
        from ackd.envs.make import distill
        from ackd.errors import InputError

        choice = choice_of(self.algorithm, self.settings)
        own: dict[str, Any] = {"choice": choice, "observe_cls": observes_cls(self.algorithm)}
        if by_return(self.algorithm):
            own["reward_every"] = sys.maxsize  # and so at the end alone
        if self.instances is None:
            env: DistillationEnv | InstanceEnv = distill(
                task=self.task,
                teacher=self.teacher,
                teacher_weights=self.teacher_weights,
                **own,
                **self.data_settings(),
                **self.student_settings(),
                **self.method_settings(),
            )
            if env.distillation.stages:
                raise InputError(
                    f"the preset {self.preset!r} says what is transferred when, and leaves an agent nothing to learn: "
                    "leave it away, or name the types to select from with --knowledge"
                )
            instances: tuple[Instance, ...] = ()
        else:
            instances = read_instances(
                self.instances,
                teachers=Path(self.teachers) if self.teachers else None,
                data=Path(self.data) if self.data else None,
                split=self.split,
            )
            given = self.data_settings() | self.student_settings()
            given.pop("data")
            check_instances(instances, self.algorithm, given)

            def make(**setting: Any) -> DistillationEnv:
                return distill(**over(given, setting))

            env = InstanceEnv(instances, make, order=self.order, seed=self.seed, turns=turns, **own)
        if env.decisions < 2:
            raise InputError(
                f"{env.distillation.steps} steps in phases of {self.decision_interval} are a single decision: "
                "raise --steps or --decisions"
            )
        return env, instances

    def _learn(
        self,
        env: DistillationEnv | InstanceEnv,
        recorder: Recorder,
        folder: RunFolder,
        journal: Journal,
        bar: tqdm[Any],
    ) -> tuple[Learner, Ledger]:
        """The agent after its episodes, and what they took."""
        from ackd.agents.learner import make_learner

        with self._venv(env, recorder, folder, journal, bar) as (watch, venv):
            learner = make_learner(
                self.algorithm,
                venv,
                types=len(env.knowledge),
                decisions=env.decisions,
                episodes=self.episodes,
                seed=self.seed,
                tensorboard_log=str(folder.path / "tensorboard"),
                settings=self.settings,
                instances=len(getattr(env, "instances", ())) or 1,
            )
            watch.agent_flops = learner.flops
            learner.learn(self.episodes * env.decisions)
            return learner, watch.ledger

    @contextmanager
    def _venv(
        self,
        env: DistillationEnv | InstanceEnv,
        recorder: Recorder,
        folder: RunFolder,
        journal: Journal,
        bar: tqdm[Any],
    ) -> Iterator[tuple[Watch, VecEnv]]:
        """The environments as the learner has them, here or in workers, and who counts what they take."""
        from ackd.cli.hosting import Students, run_token, vectorised
        from ackd.envs.remote import RemoteVecEnv
        from ackd.training.identity import identity

        if not self.remote:
            watch, venv, _ = vectorised(env, self.at_once, recorder, journal, on_decision=bar.update)
            yield watch, venv
            return

        def play(notes: Sequence[Note]) -> None:
            for note in notes:
                recorder.write(note)
                bar.update(note.steps)

        students = Students(self, run_token(folder.path / "checkpoint"))
        with closing(self.start_workers(students, self.device)) as workers:
            ours = identity(env.distillation)
            remote = RemoteVecEnv(workers, seconds=self.step_timeout, fingerprints=ours, watch=play)
            with closing(remote):
                yield remote, remote
                remote.finish()

    def _distil(
        self,
        learner: Learner,
        env: DistillationEnv | InstanceEnv,
        recorder: Recorder,
        folder: RunFolder,
        journal: Journal,
        bar: tqdm[Any],
        cost: dict[str, Any],
        ledger: Ledger,
    ) -> None:
        """One student with what was learned; saves it and the policy."""
        from ackd.cli.episodes import run_episode
        from ackd.cli.results import finish
        from ackd.envs.distillation import DistillationEnv
        from ackd.envs.recording import Recording
        from ackd.models import load_tokenizer

        assert isinstance(env, DistillationEnv)
        env.replay(journal)
        recording = Recording(env, recorder, on_decision=bar.update)
        recording.agent_flops = learner.actor.flops(env.signals.k_max)
        recording.ledger.add(ledger)
        run_episode(recording, learner.policy, seed=self.seed)
        dev = {split: dict(standing.scores) for split, standing in recording.standings.items()}
        metrics = {"episodes": self.episodes, "reward": recording.returned, "dev": dev}
        self._save(folder, learner, env, (), metrics, cost)
        seconds = round(sum(recording.ledger.seconds.values()), 3)
        tokenizer = load_tokenizer(self.teacher[0], padding=True)
        finish(folder, recording, tokenizer, policy=self.algorithm, episodes=self.episodes, seconds=seconds)

    def _save(
        self,
        folder: RunFolder,
        learner: Learner,
        env: DistillationEnv | InstanceEnv,
        instances: tuple[Instance, ...],
        metrics: dict[str, Any],
        cost: dict[str, Any],
    ) -> None:
        from ackd.agents import store

        store.save(
            folder.path / "policy",
            learner.actor,
            name=self.policy_name,
            algorithm=self.algorithm,
            knowledge=env.knowledge,
            k_max=env.signals.k_max,
            instances=[one.published for one in instances] or [self._instance()],
            metrics=metrics | getattr(learner, "metrics", {}),
            cost=cost,
        )

    def _instance(self) -> dict[str, Any]:
        """What the policy learned on, without the paths of this machine."""
        settings = {name: value for name, value in asdict(self).items() if name not in PRIVATE}
        names = [Path(teacher).name for teacher in self.teacher]
        return settings | {"teacher": names, "student": self.student and Path(self.student).name}
