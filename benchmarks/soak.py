"""Looks for leaks over hours of episodes: memory and open files of an agent's training, episode by episode.

    python benchmarks/soak.py --teacher DIR --minutes 60 --backend subproc --workers 2

Episodes of short students run one after the other as in `ackd train`, with a recorder and a replay log. After each
round, memory and open files of this process and its workers are recorded. The first tenth is left out, because caches
fill then.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from ackd.cli.train import Train
from ackd.distributed.workers import start
from ackd.envs.recorder import Note, Recorder
from ackd.envs.remote import RemoteVecEnv
from ackd.experiments.hosting import Students, environment, run_token

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(process: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE


def open_files(process: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def soak(options: argparse.Namespace) -> str:
    """A row for each process: what it began with, what it ended with, and the largest share between."""
    with tempfile.TemporaryDirectory() as place:
        train = Train(
            task="polarity",
            teacher=(options.teacher,),
            student_layers=2,
            max_examples=600,
            reward_examples=64,
            steps=20,
            decision_interval=5,
            batch_size=16,
            workers=options.workers,
            backend=options.backend,
            episodes=2**20,
            checkpoint_seconds=1.0,
            output=f"{place}/run",
        )
        folder = Path(train.output)
        make = Students(train, run_token(folder / "checkpoint"))
        workers = start(options.backend, make, options.workers, threads=1)
        processes = [os.getpid(), *{int(one["pid"]) for one in workers.about} - {os.getpid()}]
        memory: dict[int, list[int]] = {process: [] for process in processes}
        files: dict[int, list[int]] = {process: [] for process in processes}
        began, episodes, drawn = time.monotonic(), 0, np.random.default_rng(0)
        env, _ = environment(train, (0, 1))
        with closing(Recorder(folder, env.knowledge)) as recorder:

            def write(notes: Sequence[Note]) -> None:
                for note in notes:
                    recorder.write(note)

            with closing(RemoteVecEnv(workers, watch=write)) as venv:
                venv.seed(0)
                venv.reset()
                while time.monotonic() - began < 60 * options.minutes:
                    actions = drawn.integers(0, 2, (venv.num_envs, *(venv.action_space.shape or ())), np.int8)
                    over = venv.step(actions)[2]
                    if over.any():
                        episodes += int(over.sum())
                        for process in processes:
                            memory[process].append(resident(process))
                            files[process].append(open_files(process))
    lines = [
        "| process | episodes | memory then, MB | now | growth | open files then | now |",
        "|---|---|---|---|---|---|---|",
    ]
    for process, name in zip(processes, ("learner", *(f"worker {i}" for i in range(options.workers))), strict=False):
        first = len(memory[process]) // 10
        size, count = memory[process][first:], files[process][first:]
        then, now = (np.mean(part) / 1e6 for part in (size[: first or 1], size[-(first or 1) :]))
        lines.append(
            f"| {name} | {episodes} | {then:.1f} | {now:.1f} | {now / then - 1:+.1%} | {count[0]} | {count[-1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="build/teachers/polarity")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", default="subproc")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    print(soak(options))


if __name__ == "__main__":
    main()
