"""The cells of an evaluation: one student for each task, policy and seed, trained here or in a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ackd.agents.rules import fixed
from ackd.agents.search import Lookahead, best_static
from ackd.config import DataConfig, EpisodeConfig, StudentConfig, part
from ackd.costs import CostTracker
from ackd.distributed.jobs import answering, this_worker
from ackd.envs.distillation import DistillationEnv
from ackd.envs.instance_files import over, read_instances
from ackd.envs.make import distill
from ackd.envs.recorder import BufferedRecorder, Note
from ackd.envs.recording import Recording
from ackd.experiments.episodes import run_episode
from ackd.experiments.options import EvaluationConfig
from ackd.experiments.policies import PRESET, SEARCHED, Arm, arm, called, of_object, prepared, published, step_flops
from ackd.experiments.results import episode_result
from ackd.mdp.episode import Phase
from ackd.runs.folder import group_folder
from ackd.training.identity import check_identity, identity
from ackd.types import LABELS


class Row(NamedTuple):
    """A row of the table."""

    setting: dict[str, Any]  # keyword arguments of `ACKD/Distill-v0`
    first_seed: int


def rows_of(config: EvaluationConfig) -> dict[str, Row]:
    """The rows of the table by name.

    Raises:
        InputError: if the set of instances does not exist.
    """
    given = part(config, DataConfig, StudentConfig, EpisodeConfig)
    if config.instances is None:
        pairs = zip(config.tasks, config.teachers, strict=True)
        return {
            task: Row({"task": task, "teacher": teachers.split(","), **given}, config.first_seed)
            for task, teachers in pairs
        }
    place = Path(config.teachers[0]) if config.teachers else None
    data = Path(given.pop("data")) if config.data else given.pop("data")
    chosen = [
        one
        for split in config.splits or (None,)
        for one in read_instances(config.instances, teachers=place, data=data, split=split)
    ]
    return {one.name: Row(over(given, one.setting), one.seeds[0]) for one in chosen}


class Found(NamedTuple):
    """The best fixed subset of a task."""

    names: tuple[str, ...]
    steps: int  # optimizer steps of the search


@dataclass(frozen=True)
class Search:
    """A job: find the best fixed subset."""

    task: str


@dataclass(frozen=True)
class Cell:
    """A job: distil a student."""

    task: str
    policy: str  # as given, with its name
    place: int  # index of the seed
    seed: int
    found: Found | None = None  # the subset for `best-static`


class Filled(NamedTuple):
    """The result of a cell."""

    row: dict[str, Any]  # a row of the table
    notes: list[Note]  # for the recorder of its task and policy
    costs: CostTracker


class Cells:
    """Runs the jobs of an evaluation; each task is prepared for the first job that needs it.

    Args:
        config: options of the evaluation.
        rows: the settings, if given as objects.
        policies: policies given as objects, by name.
        alike: fingerprints of each task in the process that distributes the jobs.
        on_phase: called with each phase of a reported student.

    Raises:
        InputError: later, if the fingerprints of a task differ here.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        *,
        rows: Mapping[str, Row] | None = None,
        policies: Mapping[str, object] | None = None,
        alike: Mapping[str, Mapping[str, str]] | None = None,
        on_phase: Callable[[Phase], object] = lambda phase: None,
    ) -> None:
        self.config, self.alike, self.on_phase = config, alike or {}, on_phase
        self.rows = rows_of(config) if rows is None else rows
        self.policies = policies or {}
        self._envs: dict[tuple[str, str], DistillationEnv] = {}

    def env(self, task: str, policy: str = "") -> DistillationEnv:
        """The environment of a row of the table; published methods have their own environments."""
        _, policy = called(policy)
        method = policy if policy.startswith(PRESET) else ""
        if (task, method) not in self._envs:
            given = self.rows[task].setting
            if method:
                ours, theirs = self.env(task), prepared(published(method), {**given, "flops_budget": None})
                budget = ours.timetable.flops_budget
                if budget is not None:  # the same FLOPs as for all other policies
                    share = budget * step_flops(ours) / step_flops(theirs)
                    theirs = theirs.variant(flops_budget=min(share, 1.0))
                self._envs[task, method] = theirs
            else:
                env = distill(**given)
                if task in self.alike:
                    check_identity(identity(env.distillation), self.alike[task], this_worker())
                self._envs[task, ""] = env
        return self._envs[task, method]

    def identities(self) -> dict[str, dict[str, str]]:
        """The fingerprints of each task here, for the argument `alike` of workers."""
        return {task: identity(self.env(task).distillation) for task in self.rows}

    def arm(self, given: str, knowledge: Sequence[str], found: Found | None = None) -> Arm:
        """The arm for a policy or `NAME=POLICY`; `best-static` before its search gives an arm that cannot run."""
        if given in self.policies:
            return of_object(given, self.policies[given], knowledge)
        name, policy = called(given)
        if policy.startswith(PRESET):
            one = published(policy)
        elif policy != SEARCHED:
            one = arm(policy, knowledge)
        else:
            names = found.names if found is not None else ()
            one = Arm(policy, lambda env, seed: fixed([float(each in (LABELS, *names)) for each in env.choice.names]))
        return replace(one, name=name)

    @answering
    def do(self, job: Search | Cell) -> Found | Filled:
        """Runs a job; an interrupted job resumes from its replay log."""
        env = self.env(job.task, job.policy if isinstance(job, Cell) else "")
        try:
            return self._search(job, env) if isinstance(job, Search) else self._cell(job, env)
        finally:
            env.replay(None)

    def _search(self, job: Search, env: DistillationEnv) -> Found:
        env = env.variant(reward_every=env.decisions)
        replay_log = self.config.replay_log(self._place(job.task, SEARCHED) / "search")
        env.replay(replay_log)
        found = best_static(env, range(self.config.search_seeds), tries=self.config.search_tries)
        replay_log.finish()
        return Found(found.names, found.episodes * env.distillation.steps)

    def _cell(self, job: Cell, env: DistillationEnv) -> Filled:
        one = self.arm(job.policy, env.knowledge, job.found)
        env = one.within(env)
        if "reward_every" not in one.settings:
            env = env.variant(reward_every=env.decisions)
        replay_log = None if one.forks else self.config.replay_log(self._place(job.task, job.policy) / str(job.seed))
        env.replay(replay_log)
        tape = BufferedRecorder(job.place)
        recording = Recording(env, tape, on_phase=self.on_phase)
        policy = one.make(env, job.seed)
        run_episode(recording, policy, seed=job.seed, learner=one.learner(policy))
        # from the costs, because they include the time before a run was resumed
        seconds = round(sum(env.distillation.costs.seconds.values()), 3)
        searched = job.found.steps if job.found is not None else 0
        if isinstance(policy, Lookahead):
            searched = policy.probes * env.timetable.decision_interval
        row = episode_result(recording, policy=one.name, seconds=seconds, search_steps=searched)
        # a reward on a part of the reward split cannot be compared with the others
        own = {"task": job.task, **({} if env.timetable.reward_share == 1 else {"reward": None})}
        if one.method:  # FLOPs shares and rewards of a method refer to its own environment
            whole = step_flops(self.env(job.task)) / step_flops(env)
            own |= {"reward": None, "flops_share": row["flops_share"] / whole}
        if replay_log is not None:
            replay_log.finish()
        return Filled(row | own, tape.take(), recording.costs)

    def _place(self, task: str, policy: str) -> Path:
        return group_folder(Path(self.config.output), task, called(policy)[0]) / "checkpoint"
