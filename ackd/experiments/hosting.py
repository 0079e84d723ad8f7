"""Makes the environments of an agent's training, here and in workers."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ackd.agents.learner import by_return, choice_of, observes_cls
from ackd.agents.leave_one_out import LeaveOneOutBaseline
from ackd.config import DataConfig, DistillationConfig, EpisodeConfig, StudentConfig, part
from ackd.envs.cohort import CohortEnv
from ackd.envs.distillation import DistillationEnv
from ackd.envs.env_server import Course, EnvServer, Watch
from ackd.envs.instance_files import Instance, over, read_instances
from ackd.envs.instances import InstanceEnv
from ackd.envs.make import distill
from ackd.envs.recorder import BufferedRecorder, Notes
from ackd.envs.recording import CohortRecording, Recording
from ackd.errors import InputError
from ackd.experiments.instances import check_instances
from ackd.experiments.options import AgentConfig
from ackd.files.writing import write_whole
from ackd.mdp.episode import Phase
from ackd.training.identity import identity
from ackd.training.replay_log import ReplayLog

TOKEN = "run"  # the file that identifies the run of a checkpoint


def environment(
    config: AgentConfig, shard: tuple[int, int] = (0, 1), given: Sequence[Instance] = ()
) -> tuple[DistillationEnv | InstanceEnv, tuple[Instance, ...]]:
    """Makes the agent's environment; returns it with the instances, which may be empty.

    Args:
        config: options of the agent's training.
        shard: (first, stride) of the instance turns of this environment, for workers.
        given: instances given as objects.

    Raises:
        InputError: if an agent cannot learn in the environment.
    """
    choice = choice_of(config.algorithm, config.settings)
    own: dict[str, Any] = {"choice": choice, "observe_cls": observes_cls(config.algorithm)}
    if by_return(config.algorithm):
        own["reward_every"] = sys.maxsize  # a reward at the end only
    if config.instances is None and not given:
        env: DistillationEnv | InstanceEnv = distill(
            task=config.task,
            teacher=config.teacher,
            **own,
            **part(config, DistillationConfig),
        )
        if env.distillation.stages:
            raise InputError(
                f"the preset {config.preset!r} says what is transferred when, and leaves an agent nothing to learn: "
                "leave it away, or name the types to select from with --knowledge"
            )
        instances: tuple[Instance, ...] = ()
    else:
        instances = tuple(given) or read_instances(
            str(config.instances),
            teachers=Path(config.teachers) if config.teachers else None,
            data=Path(config.data) if config.data else None,
            split=config.split,
        )
        common = part(config, DataConfig, StudentConfig, EpisodeConfig)
        common.pop("data")
        check_instances(instances, config.algorithm, common)

        def make(**setting: Any) -> DistillationEnv:
            return distill(**over(common, setting))

        env = InstanceEnv(instances, make, order=config.order, seed=config.seed, shard=shard, **own)
    if env.decisions < 2:
        raise InputError(
            f"{env.distillation.steps} steps in phases of {config.decision_interval} are a single decision: "
            "raise --steps or --decisions"
        )
    return env, instances


@dataclass(frozen=True)
class Students:
    """Makes the environments of a worker, inside that worker; their replay log is beside the run's checkpoint.

    Args:
        config: options of the agent's training.
        token: identifier of the run.
    """

    config: AgentConfig
    token: str

    def __call__(self, worker: int) -> EnvServer:
        """Makes the environment or cohort of a worker, on its device, with its share of the instances."""
        config, shard = self.config, (worker, self.config.count)
        config = replace(config, device=config.device_of(worker, config.device))
        env, _ = environment(config, shard)
        folder = Path(config.output) / "checkpoint" / f"worker-{worker}"
        if _token(folder) != self.token:  # left by a run that another machine has replaced
            shutil.rmtree(folder, ignore_errors=True)
            write_whole(folder / TOKEN, self.token.encode())
        replay_log = ReplayLog(folder, seconds=config.checkpoint_seconds)
        tape = BufferedRecorder(*shard, config.students)
        watch, venv, course = vectorised(env, config.students, tape, replay_log, shard=shard)
        return EnvServer(
            venv, tape=tape, watch=watch, course=course, replay_log=replay_log, fingerprints=identity(env.distillation)
        )


def vectorised(
    env: DistillationEnv | InstanceEnv,
    students: int,
    notes: Notes,
    replay_log: ReplayLog,
    *,
    shard: tuple[int, int] = (0, 1),
    on_phases: Callable[[Sequence[Phase], int], object] | None = None,
) -> tuple[Watch, VecEnv, Course]:
    """Vectorises an environment, or a cohort of its students, with a recorder and a replay log to resume from.

    `on_phases` is called with each phase of the students that have not diverged, and the optimizer steps of all.
    """
    if students > 1:
        watch = CohortRecording(notes)
        if isinstance(env, DistillationEnv):
            cohort = CohortEnv([env], students, paired=True, watch=watch)
        else:
            cohort = CohortEnv(
                env.every(),
                students,
                blocks=[one.seeds for one in env.instances.values()],
                shard=shard,
                paired=True,
                watch=watch,
            )
        cohort.on_phase = on_phases
        cohort.replay(replay_log)
        return watch, LeaveOneOutBaseline(cohort), cohort
    env.replay(replay_log)
    recording = Recording(env, notes, on_phase=on_phases and (lambda phase: on_phases([phase], phase.steps)))
    return recording, DummyVecEnv([lambda: Monitor(recording)]), recording


def run_token(folder: Path) -> str:
    """A unique identifier of the run, stored in its checkpoint."""
    token = _token(folder)
    if not token:
        token = secrets.token_hex(8)
        write_whole(folder / TOKEN, token.encode())
    return token


def _token(folder: Path) -> str:
    try:
        with (folder / TOKEN).open(encoding="ascii") as file:
            return file.read(16)
    except (OSError, ValueError):
        return ""
