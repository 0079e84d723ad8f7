"""Compares a cohort's step with single steps of the same students in turn, as ratios of paired times.

    python benchmarks/cohort.py [--device cuda --precision bf16] [--students 16] [--threads 1] [--mixed]

Small students (2 layers, 128 wide) with random weights learn logits, hidden states and attention from a small teacher,
in batches of 16 x 32 tokens. Each pair times some steps of the cohort and the same steps of every single student, in
alternating order. All run the teacher, without a cache. With --mixed every student has its own selection.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from transformers import BertConfig

from ackd import knowledge, models
from ackd.cohort.cohort import Cohort
from ackd.models import StudentFactory
from ackd.tasks import Split, Task, TaskSpec
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation
from ackd.types import Selection

VOCABULARY = 30522


def of_size(layers: int, width: int) -> StudentFactory:
    return models.from_config(
        BertConfig(
            vocab_size=VOCABULARY,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=2,
            intermediate_size=4 * width,
        )
    )


def random_task(length: int) -> Task:
    generator = np.random.default_rng(0)
    count = 256
    tokens = {"input_ids": generator.integers(1000, VOCABULARY, count * length)}
    split = Split(tokens, np.arange(count + 1) * length, generator.integers(0, 2, count), np.arange(count), {})
    return Task(TaskSpec("random", ("text",), "label", ("no", "yes"), ("accuracy",)), split, split, {})


def distillation(options: argparse.Namespace) -> Distillation:
    torch.manual_seed(0)
    teacher_model, make_student = of_size(4, 256)().to(options.device), of_size(2, 128)
    teacher = ModelTeacher(teacher_model, precision=options.precision)
    shape = models.shape_of(make_student())
    return Distillation(
        random_task(options.length),
        [teacher],
        make_student,
        lambda: knowledge.build(knowledge.DEFAULT, shape, teacher.shape),
        steps=10**6,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
    )


def seconds(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(pattern: Distillation, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side, one number a pair.

    Args:
        pattern: the training of every student.
        options: students, steps, pairs, mixed and device, as on the command line.
    """
    cohort = Cohort(pattern, options.students)
    alone = [pattern.fork() for _ in range(options.students)]
    for seed, one in enumerate(alone):
        one.reset(seed)
    selections = [Selection.of(*knowledge.DEFAULT)] * options.students
    if options.mixed:
        drawn = np.random.default_rng(0).random((options.students, len(knowledge.DEFAULT))) < 0.5
        selections = [Selection.of(*np.array(knowledge.DEFAULT)[row].tolist()) for row in drawn]

    def together() -> None:
        cohort.advance(selections, options.steps)

    def in_turn() -> None:
        for one, selection in zip(alone, selections, strict=True):
            one.advance(selection, options.steps)

    found: dict[str, list[float]] = {"cohort": [], "alone": []}
    for pair in range(options.pairs + 1):
        sides = {"cohort": together, "alone": in_turn}
        for name in sides if pair % 2 else reversed(sides):
            spent = seconds(sides[name], options.device)
            if pair:  # the first pair is a warm-up
                found[name].append(spent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, nargs="+", default=[16])
    parser.add_argument("--steps", type=int, default=5, help="of each side in a pair")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--mixed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{versions} python {platform.python_version()} threads {options.threads} device {options.device}\n")
    print("| students | precision | selections | alone / cohort | cohort (student steps a second) | alone |")
    print("|---|---|---|---|---|---|")
    for students in options.students:
        found = measure(distillation(options), argparse.Namespace(**{**vars(options), "students": students}))
        ratios = [alone / cohort for alone, cohort in zip(found["alone"], found["cohort"], strict=True)]
        rates = {name: students * options.steps / statistics.median(spent) for name, spent in found.items()}
        print(
            f"| {students} | {options.precision} | {'mixed' if options.mixed else 'equal'} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {rates['cohort']:.1f} | {rates['alone']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
