"""Trains an agent that learns what to select, over several students' trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from ackd.agents import store
from ackd.agents.card import check_name
from ackd.agents.learned import LearnedPolicy
from ackd.agents.learner import Learner, check_learner, choice_of, make_learner, observes_cls
from ackd.config import checked, renamed
from ackd.costs import CostTracker
from ackd.envs.distillation import DistillationEnv
from ackd.envs.env_server import Watch
from ackd.envs.instance_files import Instance
from ackd.envs.instances import InstanceEnv
from ackd.envs.recorder import Note, Recorder
from ackd.envs.recording import Recording
from ackd.envs.remote import RemoteVecEnv
from ackd.errors import InputError
from ackd.experiments.beginning import Beginning
from ackd.experiments.episodes import run_episode
from ackd.experiments.hosting import Students, environment, run_token, vectorised
from ackd.experiments.objects import placed, shared
from ackd.experiments.options import AgentConfig
from ackd.experiments.progress import Bar, progress, say
from ackd.experiments.results import finish, said
from ackd.experiments.tracking import curves_of
from ackd.experiments.workers import GROWING
from ackd.runs.curves import Curves
from ackd.runs.folder import FREE
from ackd.training.identity import identity
from ackd.training.replay_log import ReplayLog

# settings of this machine only; they are left out of a policy's file, which may be shared
PRIVATE = {*FREE, "checkpoint_seconds", "data", "dev_data", "device", "cache", "teachers"}
PRIVATE |= {"workers", "cache_reads", "cache_device_memory", *GROWING}


class AgentTraining:
    """An agent's training; on a single setting, a student is then distilled with the learned policy.

    Args:
        config: options of the training.
        instances: the settings, if given as objects.

    Raises:
        InputError: if an option in `config` cannot be used.
    """

    def __init__(self, config: AgentConfig, instances: Sequence[Instance] = ()) -> None:
        self.config, self.given = config, tuple(instances)
        self.folder = config.run_folder((*config.teacher, config.student, config.data, config.cache, config.instances))
        self.told = ""  # report about the distilled student, if any
        self.finished = config.finished(self.folder, "train", growing=GROWING, workers=config.count)

    def run(self) -> Path:
        """Trains the agent, saves it, and returns its folder."""
        typed = self.config
        config = self.config = replace(typed, device=self._check())
        choice_of(config.algorithm, config.settings)
        check_name(config.policy_name)
        env, instances = environment(config, given=self.given)
        settings = {**asdict(typed), "workers": config.count}
        self.folder.begin("train", settings, growing=GROWING, by_names=not self.given)
        replay_log = config.replay_log(self.folder.path / "checkpoint")
        single = not instances
        students = config.episodes + single
        begins = Beginning.of(env.distillation, students=students, workers=config.count)
        first = f"{len(instances)} settings, of which the first is {instances[0].name}\n" if len(instances) > 1 else ""
        say(f"{first}{begins.lines}", quiet=config.quiet)
        with (
            progress(students * env.distillation.steps, f"train ({config.algorithm})", quiet=config.quiet) as bar,
            curves_of(config, self.folder, policy=config.algorithm) as curves,  # a resumed run draws all points again
            closing(Recorder(self.folder.path, env.knowledge, curves)) as recorder,
        ):
            learner, costs = self._learn(env, recorder, replay_log, bar, curves)
            cost = {
                "episodes": config.episodes,
                "student_steps": costs.steps * config.at_once,
                "flops": sum(costs.flops.values()),
                "seconds": round(sum(costs.seconds.values()), 3),
            }
            if single:
                curves.result(self._distil(learner, env, recorder, replay_log, bar, cost, costs))
            else:
                self._save(learner, env, instances, {"episodes": config.episodes}, cost)
                self.folder.write_json("ledger.json", costs.as_dict())
                names = [one.name for one in instances]
                self.folder.write_json("result.json", {"policy": config.algorithm, "instances": names} | cost)
                curves.result(cost)
        replay_log.finish()
        return self.folder.path / "policy"

    def _check(self) -> str:
        """Checks the options and returns the device."""
        config = self.config
        config.trackers()
        if not self.given and (config.instances is None) == (config.task is None):
            raise InputError("say what to learn on: --task and --teacher, or --instances, and not both")
        if config.task is not None and not config.teacher:
            raise InputError(f"the task {config.task} has no teacher: name one with --teacher")
        if config.instances is not None and (config.preset is not None or config.options):
            raise InputError(f"the instances of {config.instances} say what is selected from: leave --preset away")
        if config.episodes < 1 or config.students < 1:
            raise InputError(
                f"{config.episodes} episodes of {config.students} students at a time teach nothing: give 1 or more"
            )
        device = config.check_workers(config.device)
        if config.remote and self.given:
            raise InputError("workers take settings by their names: leave workers away, or give a set of instances")
        check_learner(config.algorithm, episodes=config.episodes, remote=config.remote)
        a_round = config.at_once * config.count
        if config.episodes % a_round:
            what = f"cohorts of {config.students} students" if config.count == 1 else f"rounds of {a_round} students"
            raise InputError(
                f"{config.episodes} episodes are no whole number of {what}: "
                f"give {-(-config.episodes // a_round) * a_round} episodes"
            )
        if config.students > 1 and observes_cls(config.algorithm):
            raise InputError(
                f"{config.algorithm} reads first-token states, which a cohort does not show: leave --students away"
            )
        if config.students > 1 and config.order != "round-robin":
            raise InputError("cohorts take instances in turn: leave --order or --students away")
        return device

    def _learn(
        self,
        env: DistillationEnv | InstanceEnv,
        recorder: Recorder,
        replay_log: ReplayLog,
        bar: Bar,
        curves: Curves,
    ) -> tuple[Learner, CostTracker]:
        """Trains the agent for all episodes; returns it with the costs."""
        with self._venv(env, recorder, replay_log, bar) as (watch, venv):
            learner = make_learner(
                self.config.algorithm,
                venv,
                types=len(env.knowledge),
                decisions=env.decisions,
                episodes=self.config.episodes,
                seed=self.config.seed,
                curves=curves,
                settings=self.config.settings,
                instances=len(getattr(env, "instances", ())) or 1,
            )
            watch.agent_flops = learner.flops
            learner.learn(self.config.episodes * env.decisions)
            return learner, watch.costs

    @contextmanager
    def _venv(
        self,
        env: DistillationEnv | InstanceEnv,
        recorder: Recorder,
        replay_log: ReplayLog,
        bar: Bar,
    ) -> Iterator[tuple[Watch, VecEnv]]:
        """The vectorised environments, here or in workers, and the object that counts their costs."""
        if not self.config.remote:
            watch, venv, _ = vectorised(env, self.config.at_once, recorder, replay_log, on_phases=bar.phases)
            yield watch, venv
            return

        def play(notes: Sequence[Note]) -> None:
            for note in notes:
                recorder.write(note)
                bar.note(note)

        students = Students(self.config, run_token(self.folder.path / "checkpoint"))
        with closing(self.config.start_workers(students, self.config.device)) as workers:
            ours = identity(env.distillation)
            remote = RemoteVecEnv(workers, seconds=self.config.step_timeout, fingerprints=ours, watch=play)
            with closing(remote):
                yield remote, remote
                remote.finish()

    def _distil(
        self,
        learner: Learner,
        env: DistillationEnv | InstanceEnv,
        recorder: Recorder,
        replay_log: ReplayLog,
        bar: Bar,
        cost: dict[str, Any],
        costs: CostTracker,
    ) -> dict[str, Any]:
        """Distils one student with the learned policy, saves both, and returns the student's result."""
        assert isinstance(env, DistillationEnv)
        env.replay(replay_log)
        recording = Recording(env, recorder, on_phase=bar.phase)
        recording.agent_flops = learner.actor.flops(env.signals.k_max)
        recording.costs.add(costs)
        run_episode(recording, learner.policy, seed=self.config.seed)
        dev = {split: dict(eval_result.scores) for split, eval_result in recording.eval_results.items()}
        metrics = {"episodes": self.config.episodes, "reward": recording.returned, "dev": dev}
        self._save(learner, env, (), metrics, cost)
        seconds = round(sum(recording.costs.seconds.values()), 3)
        how = {"policy": self.config.algorithm, "episodes": self.config.episodes}
        result, compared = finish(self.folder, recording, **how, seconds=seconds, timed=not self.config.quiet)
        columns, student = self.config.text_columns, self.folder.path / "student"
        self.told = said(result, recording.costs, student, compared, columns)
        return result

    def _save(
        self,
        learner: Learner,
        env: DistillationEnv | InstanceEnv,
        instances: tuple[Instance, ...],
        metrics: dict[str, Any],
        cost: dict[str, Any],
    ) -> None:

        store.save(
            self.folder.path / "policy",
            learner.actor,
            name=self.config.policy_name,
            algorithm=self.config.algorithm,
            knowledge=env.knowledge,
            k_max=env.signals.k_max,
            instances=[one.published for one in instances] or [self._instance()],
            metrics=metrics | getattr(learner, "metrics", {}),
            cost=cost,
        )

    def _instance(self) -> dict[str, Any]:
        """The settings that the policy was trained on, without the paths of this machine."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in PRIVATE}
        names = [Path(teacher).name for teacher in self.config.teacher]
        return settings | {"teacher": names, "student": self.config.student and Path(self.config.student).name}


def train_agent(
    agent: str | None = None,
    *,
    settings: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any] | Instance],
    episodes: int = 64,
    output: str | Path | None = None,
    **options: Any,
) -> LearnedPolicy:
    """Trains an agent over several students' trainings and returns its policy.

    Args:
        agent: the learning algorithm, as for `ackd train --agent`; residual if None.
        settings: a set of instances or a JSON file with instances; or settings, each as for `ackd.prepare`.
        episodes: number of students that it learns from.
        output: folder for the run, with its curves and the policy; nothing is saved if None.
        **options: the other fields of `AgentConfig`, such as `students` to train side by side. Objects, such as a
            `reward`, apply to every setting that has none of its own.

    Returns:
        The policy: `evaluate` and `DistillationTrainer` accept it, and its method `save` writes it.

    Raises:
        InputError: in one sentence, if an argument cannot be used.

    Example:
        train_agent("cem", settings=[{"task": "polarity", "teacher": "runs/teacher"}], episodes=64, students=16)
    """
    instances: tuple[Instance, ...] = ()
    common = shared(options, settings)
    if isinstance(settings, (str, Path)):
        options["instances"] = str(settings)
    else:
        instances = _instances([settings] if isinstance(settings, (Mapping, Instance)) else settings, common)
    with placed(output) as folder:
        chosen = {"agent": agent, "episodes": episodes, "output": folder, **options}
        config = checked(AgentConfig, chosen, others=("settings",))
        if "policy_name" not in options:
            config = replace(config, policy_name=config.algorithm)
        training = AgentTraining(config, instances)
        return store.load(training.folder.path / "policy" if training.finished else training.run())


def _instances(settings: Sequence[Mapping[str, Any] | Instance], common: Mapping[str, Any]) -> tuple[Instance, ...]:
    """Converts settings to instances, each with plenty of seeds and with the common options."""
    found = []
    for one in settings:
        if isinstance(one, Instance):
            found.append(replace(one, setting={**common, **one.setting}))
            continue
        own = {**common, **renamed(one)}
        name = str(own.pop("name", own.get("task", "data")))
        found.append(Instance(name, "train", own, (0, 2**30)))
    if not found:
        raise InputError("there is no setting to learn on: give at least one")
    return tuple(found)
