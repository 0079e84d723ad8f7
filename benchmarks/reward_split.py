"""Is the reward split really held out? Compares scores of teacher and student on it with their scores on dev.

    python benchmarks/reward_split.py --tasks mrpc --data GLUE --models MODELS

The teacher is fine-tuned from `minilm-l6` in MODELS. The student is a small model from scratch that trains on the
labels, with another number of examples than the teacher. `anew` is an earlier way to make the reward split: it draws
the training examples and takes the split from them, without regard to shared texts or to what the teacher has seen.
`held out` is `ackd.tasks.load`. A split is held out if a model's score on it equals the score on dev, within the noise
of few examples: the standard error of a score of 80 % is 2.5 points on 256 examples.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd import Selection, distill, models, tasks
from ackd.models import StudentFactory, Tokenizer
from ackd.tasks import GLUE, Split, Task, tokenise
from ackd.tasks.cut import stratified
from ackd.tasks.overlap import Overlap
from ackd.tasks.rows import glue_rows
from ackd.training.distillation import Distillation

LENGTH, REWARD = 64, 256
HEADER = ("task", "cut", "model", "learned from", "of the reward split", "sharing text", "loss", "dev", "score", "dev")


def anew(task: Task, data: str, tokenizer: Tokenizer, most: int, seed: int) -> Task:
    """The same task cut as was done once."""
    rows, rng = glue_rows(task.spec, data, "train"), np.random.default_rng(seed)
    indices = np.arange(len(rows))
    if most < len(rows):
        indices = np.sort(rng.choice(len(rows), most, replace=False))
    held = indices[stratified(rows.labels[indices], REWARD, rng)]

    def cut(indices: NDArray[np.int64]) -> Split:
        some = rows.select(indices)
        return tokenise(some.texts, some.labels, some.ids, tokenizer, LENGTH)

    return replace(task, train=cut(np.setdiff1d(indices, held)), reward=cut(held))


def taught(task: Task, make: StudentFactory, steps: int, lr: float, seed: int) -> Distillation:
    """A model that has learned from the labels."""
    training = Distillation(task, (), make, steps=steps, batch_size=32, lr=lr)
    distill(training, Selection(), seed=seed)
    return training


def lines(name: str, options: argparse.Namespace) -> Iterator[str]:
    """The table's rows for one task."""
    source = options.models / "minilm-l6"
    tokenizer, spec = models.load_tokenizer(source), GLUE[name]
    make = models.from_checkpoint(source, spec.num_labels)
    small = models.from_config(models.small_config(len(tokenizer), spec.num_labels, layers=2))
    rows = glue_rows(spec, options.data, "train")
    count, overlap = len(rows), Overlap(rows.texts)
    for cut in ("anew", "held out"):
        given: dict[str, Any] = {
            "data": options.data,
            "max_length": LENGTH,
            "reward_examples": REWARD,
            "seed": options.seed,
        }
        first = tasks.load(name, tokenizer, **given, max_examples=options.teacher_examples)
        second = tasks.load(name, tokenizer, **given, max_examples=options.student_examples, seen=first.seen)
        if cut == "anew":
            first, second = (
                anew(task, options.data, tokenizer, most, options.seed)
                for task, most in ((first, options.teacher_examples), (second, options.student_examples))
            )
        teacher = taught(first, make, options.teacher_steps, 5e-5, options.seed)
        student = taught(second, small, options.student_steps, 1e-3, options.seed)
        for who, model in (("teacher", teacher), ("student", student)):
            learned = np.zeros(count, np.bool_)
            learned[model.task.train.ids] = True
            seen, near = learned[second.reward.ids].sum(), overlap.touching(learned)[second.reward.ids].sum()
            reward, dev = (
                model.evaluate(second.reward, "reward"),
                model.evaluate(second.dev["validation"], "validation"),
            )
            cells = (name, cut, who, f"{learned.sum()}", f"{seen} of {len(second.reward)}", f"{near}")
            scores = (f"{reward.loss:.3f}", f"{dev.loss:.3f}", f"{100 * reward.score:.1f}", f"{100 * dev.score:.1f}")
            yield f"| {' | '.join((*cells, *scores))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("ACKD_SHARED", "../shared"))
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mrpc", "rte"])
    parser.add_argument("--data", default=str(shared / "glue"))
    parser.add_argument("--models", type=Path, default=shared / "models")
    parser.add_argument("--teacher-examples", type=int, default=10**6)
    parser.add_argument("--student-examples", type=int, default=3000)
    parser.add_argument("--teacher-steps", type=int, default=300)
    parser.add_argument("--student-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{versions} python {platform.python_version()} threads {torch.get_num_threads()} seed {options.seed}\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for name in options.tasks:
        for line in lines(name, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
