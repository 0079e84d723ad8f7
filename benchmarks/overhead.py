"""Measures the overhead of the environment: `step` against a plain loop of the same optimizer steps, in pairs.

    python benchmarks/overhead.py --data DIR --teacher DIR

Without arguments it uses a generated task and a teacher with random weights, which is as fast as a trained one. Each
pair times one decision of the environment and the same steps of the plain loop, in alternating order. The ratio
includes all other work of `step`, such as the pass over the reward split. That pass is also timed separately; the rest
is the environment's own overhead.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from ackd import Selection
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import distill
from ackd.models import from_config, save_model, small_config
from ackd.tasks import embedded_tokenizer


def random_teacher(folder: Path) -> str:
    tokenizer = embedded_tokenizer("polarity")
    model = from_config(small_config(len(tokenizer), 2, layers=6, width=128))()
    save_model(folder, model, tokenizer)
    return str(folder)


def measure(env: DistillationEnv, plain: DistillationEnv, selection: Selection, pairs: int) -> dict[str, float]:
    """Medians over the pairs, in seconds, and of their ratios."""
    action = env.choice.action(selection)
    loop = plain.distillation
    env.reset(seed=0)
    loop.reset(0)
    ratios, bare, steps, passes = [], [], [], []
    for pair in range(pairs + 1):
        times = {}
        for who in ("env", "loop") if pair % 2 else ("loop", "env"):
            before = env.distillation.costs.seconds["reward"]
            start = time.perf_counter()
            if who == "env":
                env.step(action)
            else:
                loop.advance(selection, env.timetable.decision_interval)
            times[who] = time.perf_counter() - start
            if who == "env":
                times["reward"] = env.distillation.costs.seconds["reward"] - before
        if pair:  # the first pair is a warm-up
            ratios.append(times["env"] / times["loop"])
            bare.append((times["env"] - times["reward"]) / times["loop"])
            steps.append(times["loop"])
            passes.append(times["reward"])
    names = ("ratio", "without the reward pass", "loop", "reward pass")
    return dict(zip(names, map(statistics.median, (ratios, bare, steps, passes)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="polarity")
    parser.add_argument("--data")
    parser.add_argument("--teacher")
    parser.add_argument("--student-layers", type=int, default=3)
    parser.add_argument("--max-examples", type=int, default=4000)
    parser.add_argument("--intervals", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "gymnasium"))
    print(f"{versions} python {platform.python_version()} threads {torch.get_num_threads()} device {options.device}\n")
    print("| task | selection | interval | step / loop | without the reward pass | loop (s) | reward pass (s) |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        teacher = options.teacher or random_teacher(Path(folder))
        for interval in options.intervals:
            env, plain = (
                distill(
                    task=options.task,
                    data=options.data,
                    teacher=teacher,
                    student_layers=options.student_layers,
                    max_examples=options.max_examples,
                    steps=interval * (options.pairs + 1),
                    decision_interval=interval,
                    batch_size=options.batch_size,
                    device=options.device,
                )
                for _ in range(2)
            )
            for selection in (Selection(), Selection.of(*env.knowledge)):
                row = measure(env, plain, selection, options.pairs)
                print(
                    f"| {options.task} | {'+'.join(selection.chosen) or 'labels'} | {interval} | {row['ratio']:.3f} "
                    f"| {row['without the reward pass']:.3f} | {row['loop']:.2f} | {row['reward pass']:.3f} |"
                )


if __name__ == "__main__":
    main()
