"""Predicts time and cost of training agents with 1 to 1,024 workers, from constants that it measures.

    python -m benchmarks.scaling measure --data GLUE --models MODELS
    python -m benchmarks.scaling check --data GLUE --models MODELS
    python -m benchmarks.scaling predict [--times 1] [--price 0.05]

`measure` writes the constants to `build/scaling.json`, from the tasks with the shortest and longest texts. `check`
trains on other tasks with one and with two workers, and prints the ratio of measured to predicted time. `predict`
prints the tables of docs/scaling.md; `--times` is the speed-up of a faster device.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.learner import make_learner
from ackd.agents.rules import rule
from ackd.distributed.workers import start
from ackd.envs.distillation import DistillationEnv
from ackd.envs.env_server import EnvServer
from ackd.envs.make import distill
from ackd.envs.remote import RemoteVecEnv
from ackd.envs.toy import ToyEnv
from ackd.teachers.cache.budget import readable
from ackd.training.sampler import LengthGroupedSampler
from benchmarks.cost_model import STEP, Constants, Data, Line, Run, Work, answer_bytes, saturation, seconds

# Examples, mean MiniLM tokens without and with padding, dev examples; the numbers of the last three tasks are assumed.
TASKS = {
    "rte": Data(2_490, 66.8, 73.0, 277),
    "mrpc": Data(3_668, 53.4, 57.4, 408),
    "stsb": Data(5_749, 27.8, 32.7, 1_500),
    "cola": Data(8_551, 11.3, 12.9, 1_043),
    "sst2": Data(67_349, 13.3, 16.6, 872),
    "qnli": Data(104_743, 50.0, 55.0, 5_463),
    "qqp": Data(363_846, 30.0, 35.0, 40_430),
    "mnli": Data(392_702, 39.0, 44.0, 9_815),
}
FITTED, CHECKED = ("cola", "rte"), ("sst2", "mrpc")
TEACHERS = {"sst2": "minilm-l6-sst2", "mrpc": "minilm-l6-mrpc", "cola": "minilm-l6-sst2", "rte": "minilm-l6-mrpc"}
WORKERS = (1, 2, 4, 8, 16, 64, 256, 1024)
SHORT = Run(steps=60, interval=20, reward=256, episodes=2)
FULL = Run(steps=1_000, interval=20, reward=512, episodes=1_024)
FORMER = {"teacher": 1.3e9, "reference": 0.1e9, "student": 0.2e9}  # parameters of the language models for the corpus


def environment(place: argparse.Namespace, task: str, run: Run, *, cache: str | None = None) -> DistillationEnv:
    """Students of three layers on a task, which measure the reward after each decision."""
    return distill(
        task=task,
        teacher=str(place.models / TEACHERS[task]),
        data=place.data,
        student_layers=3,
        steps=run.steps,
        decision_interval=run.interval,
        reward_examples=run.reward,
        max_examples=3_000,
        batch_size=16,
        device=place.device,
        cache=cache,
    )


def measured(env: DistillationEnv, seed: int) -> list[float]:
    """The seconds of each phase of an episode with everything transferred."""
    policy, phases = rule("all", env.knowledge), []
    (observation, _), over = env.reset(seed=seed), False
    while not over:
        began = time.perf_counter()
        observation, _, over, _, _ = env.step(policy.predict(observation)[0])
        phases.append(time.perf_counter() - began)
    return phases


def measure(place: argparse.Namespace) -> Constants:
    """The constants of this machine, one thread a worker."""
    points: dict[str, list[tuple[float, float]]] = {part: [] for part in STEP}
    phases: list[float] = []
    spent, took = 0.0, 0.0
    for task in FITTED:
        with tempfile.TemporaryDirectory() as folder:
            for cache in (None, folder, folder):  # the second run fills the cache, the third reads it
                env = environment(place, task, SHORT, cache=cache)
                times = measured(env, seed=0)
                costs, steps = env.distillation.costs, env.distillation.steps
                if cache is None or not costs.teacher_queries:
                    phases += [one / statistics.mean(times) for one in times]
                    answers = costs.bytes["teacher"] / 2, costs.bytes["cache"]  # the cache has half the bytes
                    work = costs.flops | dict(zip(("knowledge", "cache"), answers, strict=True))
                    for part in ("cache",) if cache else ("student", "teacher", "knowledge"):
                        points[part].append((work[part] / steps, costs.seconds[part] / steps))
                    spent, took = spent + costs.flops["reward"], took + costs.seconds["reward"]
    return Constants(
        lines={part: Line.through(points[part]) for part in STEP},
        measuring=spent / took,
        decide=deciding(),
        transport=transport("subproc"),
        start=starting(place),
        spread=statistics.stdev(phases),
    )


def deciding(envs: int = 8, decisions: int = 30, episodes: int = 16) -> float:
    """Seconds of an A2C learner for one decision, updates included, where environments compute next to nothing."""
    venv = DummyVecEnv([ToyEnv] * envs)
    total = episodes * decisions
    learner = make_learner("a2c", venv, types=3, decisions=decisions, episodes=episodes, seed=0)
    began = time.perf_counter()
    learner.learn(total)
    took = time.perf_counter() - began
    venv.reset()
    began = time.perf_counter()
    for _ in range(total // envs):
        venv.step(np.zeros((envs, *(venv.action_space.shape or ())), np.int8))
    return (took - (time.perf_counter() - began)) / total


def toys(worker: int) -> EnvServer:
    """A worker's environment that computes next to nothing."""
    return EnvServer(DummyVecEnv([ToyEnv]))


def transport(backend: str, count: int = 2, decisions: int = 200) -> float:
    """Seconds that a decision's way to a worker and back takes."""
    took = []
    for there in ("dummy", backend):
        venv = RemoteVecEnv(start(there, toys, count))
        with closing(venv):
            venv.reset()
            actions = np.zeros((count, *(venv.action_space.shape or ())), np.int8)
            began = time.perf_counter()
            for _ in range(decisions):
                venv.step(actions)
            took.append((time.perf_counter() - began) / decisions / count)
    return max(took[1] - took[0], 0.0)


def starting(place: argparse.Namespace) -> float:
    """Seconds until a fresh process could prepare an environment."""
    began = time.perf_counter()
    code = (
        "import ackd.envs.make as m; "
        "m.distill(task={!r}, teacher={!r}, data={!r}, device={!r}, student_layers=3, max_examples=3000)"
    )
    arguments = FITTED[0], str(place.models / TEACHERS[FITTED[0]]), place.data, place.device
    subprocess.run([sys.executable, "-c", code.format(*arguments)], check=True)
    return time.perf_counter() - began


def padded(lengths: NDArray[np.int64], size: int) -> float:
    """Tokens of an example with the padding of its batch, on average over a pass."""
    order = LengthGroupedSampler(lengths, size, np.random.default_rng(0))
    return float(np.mean([lengths[order.next()].max() for _ in range(len(lengths) // size)]))


def check(place: argparse.Namespace, constants: Constants) -> str:
    """What whole commands took over what was predicted, on tasks that the constants do not come from."""
    lines = ["| task | workers | predicted s | took s | took / predicted |", "|---|---|---|---|---|"]
    for task in CHECKED:
        distillation = environment(place, task, SHORT).distillation
        lengths = distillation.task.train.lengths
        data = Data(len(lengths), float(lengths.mean()), padded(lengths, distillation.batch_size), TASKS[task].dev)
        its = Work.of(distillation, data.padded, cached=False)
        for workers in (1, 2):
            predicted = seconds(its, data, SHORT, constants, workers)
            with tempfile.TemporaryDirectory() as folder:
                command = ["train", "--task", task, "--teacher", str(place.models / TEACHERS[task])]
                command += ["--student-layers", "3", "--steps", str(SHORT.steps), "--episodes", str(SHORT.episodes)]
                command += ["--reward-examples", str(SHORT.reward), "--batch-size", "16", "--max-examples", "3000"]
                command += ["--data", place.data, "--device", place.device]
                command += ["--share-gpu"] * (place.device == "cuda" and workers > torch.cuda.device_count())
                command += ["--workers", str(workers), "--backend", "subproc", "--output", f"{folder}/run"]
                began = time.perf_counter()
                subprocess.run([sys.executable, "-m", "ackd", *command], check=True, stdout=subprocess.DEVNULL)
                took = time.perf_counter() - began
            lines.append(f"| {task} | {workers} | {predicted:.1f} | {took:.1f} | {took / predicted:.2f} |")
    return "\n".join(lines)


def predict(place: argparse.Namespace, constants: Constants, times: float, price: float) -> str:
    """The tables for devices of so many times this machine's rate at so much an hour."""
    env = environment(place, "sst2", SHORT)
    head = " | ".join(f"{workers:,}" for workers in WORKERS)
    device = constants.faster(times)
    lines = [
        f"{FULL.episodes:,} students of {FULL.steps:,} steps on devices {times:g} x as fast; hours by workers:",
        "",
        f"| task | {head} | learner as slow as | price with {WORKERS[3]} at {price:g} an hour |",
        "|---|" + "---|" * (len(WORKERS) + 2),
    ]
    for task, data in TASKS.items():
        its = Work.of(env.distillation, data.padded, cached=True)
        hours = [seconds(its, data, FULL, device, workers) / 3600 for workers in WORKERS]
        shown = " | ".join(f"{one:.3g}" for one in hours)
        limit, paid = saturation(its, FULL, device), hours[3] * WORKERS[3] * price
        lines.append(f"| {task} | {shown} | {limit:,.0f} workers | {paid:,.0f} |")
    return "\n".join(lines)


def storage(place: argparse.Namespace) -> str:
    """What a task's answers take in the cache, and how many teacher passes they save."""
    distillation = environment(place, "sst2", SHORT).distillation
    lines = ["| task | cache | teacher answers without it | with it |", "|---|---|---|---|"]
    asked = distillation.distiller.asked(list(distillation.distiller.knowledge.values()))
    for task, data in TASKS.items():
        each = sum(answer_bytes(distillation.teachers[m].shape, its, round(data.tokens)) for m, its in asked.items())
        without = FULL.episodes * FULL.steps * distillation.batch_size
        size = readable(each * data.examples)
        lines.append(f"| {task} | {size} | {without:,} | {min(data.examples, without):,} |")
    return "\n".join(lines)


def corpus(constants: Constants, times: float, tokens: float = 1e9, network: float = 12.5e9) -> str:
    """Difference sampling and pre-training on a corpus: scoring splits without loss, a step waits for its gradients."""
    rate = constants.measuring * times
    batch = 2**19  # tokens per step
    lines = ["| workers | scoring, hours | pre-training on half, hours |", "|---|---|---|"]
    for workers in WORKERS:
        scoring = 2 * (FORMER["teacher"] + FORMER["reference"]) * tokens / rate / workers
        step = 6 * FORMER["student"] * batch / rate / workers
        exchange = 2 * 4 * FORMER["student"] / network if workers > 1 else 0.0  # a ring sends gradients twice
        training = 0.5 * tokens / batch * (step + exchange)
        lines.append(f"| {workers:,} | {scoring / 3600:.3g} | {training / 3600:.3g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "check", "predict"))
    parser.add_argument("--data", default="../shared/glue")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--constants", type=Path, default=Path("build/scaling.json"))
    parser.add_argument("--times", type=float, nargs="+", default=[1.0])
    parser.add_argument("--price", type=float, nargs="+", default=[0.05])
    place = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    if place.what == "measure":
        place.constants.parent.mkdir(parents=True, exist_ok=True)
        place.constants.write_text(json.dumps(asdict(measure(place)), indent=2) + "\n")
        print(place.constants.read_text())
        return
    found: dict[str, Any] = json.loads(place.constants.read_text())
    constants = Constants(**found | {"lines": {part: Line(**line) for part, line in found["lines"].items()}})
    if place.what == "check":
        print(check(place, constants))
        return
    print(storage(place))
    for times, price in zip(place.times, place.price, strict=True):
        print("", predict(place, constants, times, price), "", corpus(constants, times), sep="\n")


if __name__ == "__main__":
    main()
