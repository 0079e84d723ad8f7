"""The environments of `ackd train`, here and in its workers."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ackd.files.writing import write_whole

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from ackd.cli.train import Train
    from ackd.envs.distillation import DistillationEnv
    from ackd.envs.hosted import Course, Hosted, Watch
    from ackd.envs.instances import InstanceEnv
    from ackd.envs.recorder import Notes
    from ackd.training.journal import Journal

TOKEN = "run"  # the file that says which run a checkpoint is of


@dataclass(frozen=True)
class Students:
    """Makes the environments of a worker, in that worker; what they answer is kept beside the run's checkpoint.

    Args:
        train: the command.
        token: of the run.
    """

    train: Train
    token: str

    def __call__(self, worker: int) -> Hosted:
        """The environment or the cohort of that worker, on its device, with its turns of the instances."""
        from ackd.envs.hosted import Hosted
        from ackd.envs.recorder import Tape
        from ackd.training.identity import identity
        from ackd.training.journal import Journal

        train, turns = self.train, (worker, self.train.count)
        train = replace(train, device=train.device_of(worker, train.device))
        env, _ = train.environment(turns)
        folder = Path(train.output) / "checkpoint" / f"worker-{worker}"
        if _token(folder) != self.token:  # left on this machine by a run that was replaced on another
            shutil.rmtree(folder, ignore_errors=True)
            write_whole(folder / TOKEN, self.token.encode())
        journal = Journal(folder, seconds=train.checkpoint_seconds)
        tape = Tape(*turns, train.students)
        watch, venv, course = vectorised(env, train.students, tape, journal, turns=turns)
        return Hosted(
            venv, tape=tape, watch=watch, course=course, journal=journal, fingerprints=identity(env.distillation)
        )


def vectorised(
    env: DistillationEnv | InstanceEnv,
    students: int,
    notes: Notes,
    journal: Journal,
    *,
    turns: tuple[int, int] = (0, 1),
    on_decision: Callable[[int], object] | None = None,
) -> tuple[Watch, VecEnv, Course]:
    """An environment, or a cohort of its students, as an agent has it: recorded, and with a journal to go on from."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    from ackd.agents.relative import Relative
    from ackd.envs.cohort import CohortEnv
    from ackd.envs.distillation import DistillationEnv
    from ackd.envs.recording import CohortRecording, Recording

    if students > 1:
        watch = CohortRecording(notes, on_decision=on_decision)
        if isinstance(env, DistillationEnv):
            cohort = CohortEnv([env], students, paired=True, watch=watch)
        else:
            cohort = CohortEnv(env.every(), students, blocks=env.blocks, turns=turns, paired=True, watch=watch)
        cohort.replay(journal)
        return watch, Relative(cohort), cohort
    env.replay(journal)
    recording = Recording(env, notes, on_decision=on_decision)
    return recording, DummyVecEnv([lambda: Monitor(recording)]), recording


def run_token(folder: Path) -> str:
    """What tells a run from all others, kept in its checkpoint."""
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
