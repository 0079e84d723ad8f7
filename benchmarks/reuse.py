"""Measures the cost of a learned policy in a run: frozen, refined, and in full mode; only the report is not counted.

    python benchmarks/reuse.py --tasks sst2 mrpc stsb --teachers T1 T2 T3 --data GLUE --policy default --pairs 3

`fixed` replays the recorded selections of the frozen policy, so it differs from `frozen` only by the policy. The
agent's time is also reported separately. All runs of a pair have the same seed, and their order changes from pair to
pair. Times are CPU times of this process, which other processes on the machine hardly affect.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from ackd.agents.policy import Policy
from ackd.agents.rules import Rule
from ackd.costs import CostTracker
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import distill
from ackd.envs.recording import Recording
from ackd.experiments.episodes import run_episode
from ackd.experiments.policies import arm

RUNS = ("all", "fixed", "frozen", "refined", "full mode")


def scripted(actions: Sequence[Sequence[float]]) -> Rule:
    """A policy that takes its actions from a list, one after the other."""
    left = [np.array(action, np.float32) for action in actions]
    return Rule(lambda observation, mask: left.pop(0))


def play(
    name: str, env: DistillationEnv, policy: str, script: Sequence[Sequence[float]], seed: int
) -> tuple[float, CostTracker, Sequence[Sequence[float]]]:
    """The seconds of one run, what it spent, and its actions."""
    chosen = arm({"all": "all", "full mode": "all", "refined": f"{policy}:refine"}.get(name, policy), env.knowledge)
    env = chosen.within(env.variant(reward_every=1 if name == "full mode" else None))
    made: Policy = scripted(script) if name == "fixed" else chosen.make(env, seed)
    with tempfile.TemporaryDirectory() as folder, closing(Recording(env, Path(folder), dev=False)) as recording:
        began = time.process_time()
        run_episode(recording, made, seed=seed, learner=chosen.learner(made))
        return time.process_time() - began, recording.costs, env.record().actions


def measure(task: str, teacher: str, options: argparse.Namespace) -> list[str]:
    """The table's rows for one task."""
    env = distill(
        task=task,
        teacher=teacher,
        data=options.data,
        student_layers=3,
        max_length=options.max_length,
        max_examples=4000,
        steps=options.steps,
        batch_size=options.batch_size,
        lr=2e-4,
        reward_every=None,
    )
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    ledgers: dict[str, CostTracker] = {}
    for seed in range(options.pairs):
        _, _, script = play("frozen", env, options.policy, (), seed)  # also a warm-up
        turn = [*RUNS[seed % len(RUNS) :], *RUNS[: seed % len(RUNS)]]
        for name in turn:
            took, ledgers[name], _ = play(name, env, options.policy, script, seed)
            seconds[name].append(took)
    return [row(task, name, seconds, ledgers) for name in RUNS]


def row(task: str, name: str, seconds: dict[str, list[float]], ledgers: dict[str, CostTracker]) -> str:
    """One run against `all` and against `fixed`, and its passes over the reward split."""
    ratios = []
    for base in ("all", "fixed"):
        pairs = [mine / other for mine, other in zip(seconds[name], seconds[base], strict=True)]
        ratios.append(f"{statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})")
    flops = sum(ledgers[name].flops.values()) / sum(ledgers["all"].flops.values())
    passes = 1000 * ledgers[name].reward_passes / ledgers[name].steps
    agent = ledgers[name].seconds["agent"] / sum(ledgers[name].seconds.values())
    return f"| {task} | {name} | {ratios[0]} | {ratios[1]} | {flops:.3f} | {agent:.2%} | {passes:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--teachers", nargs="+", required=True)
    parser.add_argument("--data")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| task | run | time / all | time / fixed | FLOPs / all | the agent's time | reward passes in 1000 steps |")
    print("|---|---|---|---|---|---|---|")
    for task, teacher in zip(options.tasks, options.teachers, strict=True):
        print("\n".join(measure(task, teacher, options)), flush=True)


if __name__ == "__main__":
    main()
