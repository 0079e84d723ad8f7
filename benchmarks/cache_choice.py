"""Compares `--cache-reads auto` with the better of a live teacher and a cache that is read whole, at four shapes.

    python benchmarks/cache_choice.py [--device cuda] [--precision bf16] [--threads 1] [--rounds 10]

The work is that of `step_speed.py`: a BERT-base teacher and a 4-layer, 312-wide student with random weights; all
knowledge types, or logits alone. Each way trains its own student on the same examples, after an epoch that fills the
cache. In each round, each way takes some steps in turn; the ratio is that of the medians. Examples are up to a fifth
shorter than the shape says.

`--device-memory 0` leaves out the tier in the device's memory, `--no-ahead` the thread that reads ahead.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import torch
from transformers import BertConfig

from ackd import Selection
from ackd.building.setting import stepping
from ackd.models import from_config, shape_of
from ackd.numerics.memory import reuse_memory
from ackd.tasks import GLUE, Split, Task
from ackd.teachers import Cached, ModelTeacher, with_cache
from ackd.training.distillation import Distillation
from ackd.types import Teacher
from benchmarks.ackd_worker import knowledge
from benchmarks.step_speed import STUDENT, TEACHER, VOCABULARY

SHAPES = ((8, 64), (32, 64), (32, 128), (64, 128))  # examples, tokens
TYPES = {"all types": ("logits", "hidden", "attention"), "logits": ("logits",)}
WAYS = ("live", "all", "auto")


def examples(count: int, length: int) -> Split:
    """Random texts."""
    random = np.random.default_rng(0)
    lengths = random.integers(max(4 * length // 5, 2), length + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = {"input_ids": random.integers(1000, VOCABULARY, offsets[-1])}
    return Split(tokens, offsets, np.arange(count) % 2, np.arange(count), {"input_ids": 0})


class Shape:
    """The trainings of one shape, one for each way."""

    def __init__(self, teacher: ModelTeacher, size: int, length: int, folder: str, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.split = examples(size * options.batches, length)
        config = BertConfig(**(STUDENT | options.small))
        student = shape_of(from_config(config)())
        losses = knowledge(student, teacher.shape)
        how = {"name": f"{size}x{length}", "budget": 10**12, "dtype": "float16", "batch_size": size}
        self.trainings = {}
        for way in WAYS:
            answering: Teacher = teacher
            if way != "live":
                place = {"folder": folder, "device": self.device, "device_memory": options.device_memory}
                place["step"] = (
                    None if options.no_ahead else stepping(from_config(config), self.device, options.precision)
                )
                answering = with_cache(teacher, losses, self.split, reads=way, **how, **place)  # type: ignore[arg-type]
                assert isinstance(answering, Cached)
                answering.ahead = None if options.no_ahead else answering.ahead
            self.trainings[way] = Distillation(
                Task(GLUE["mrpc"], self.split, self.split, {}),
                [answering],
                from_config(config),
                lambda: knowledge(student, teacher.shape),
                steps=10**6,
                batch_size=size,
                scale_steps=0,
                device=self.device,
                precision=options.precision,
            )

    def seconds(self, types: Sequence[str]) -> dict[str, float]:
        """The median seconds of a step, by way."""
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(self.options.rounds + 1):
            for way, training in self.trainings.items():
                steps = self.options.steps if turn else 2 * self.options.batches  # first fills and warms up
                self._wait()
                start = time.perf_counter()
                training.advance(Selection.of(*types), steps)
                self._wait()
                if turn:
                    times[way].append((time.perf_counter() - start) / steps)
        return {way: statistics.median(those) for way, those in times.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of each way in a round")
    parser.add_argument("--batches", type=int, default=8, help="of an epoch")
    parser.add_argument("--shapes", nargs="+", default=[f"{size}x{length}" for size, length in SHAPES])
    parser.add_argument("--device-memory", type=float, default=1 / 3)
    parser.add_argument("--no-ahead", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    options = parser.parse_args()
    options.small = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64} if options.tiny else {}
    torch.set_num_threads(options.threads)
    reuse_memory()
    torch.manual_seed(0)
    model = from_config(BertConfig(**(TEACHER | options.small)))().to(torch.device(options.device))
    teacher = ModelTeacher(model, precision=options.precision)
    print("| examples x tokens | types | live, all read, auto (ms) | auto / the better | auto reads |")
    print("|---|---|---|---|---|")
    for shape in options.shapes:
        size, length = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            it = Shape(teacher, size, length, folder, options)
            (cached,) = it.trainings["auto"].teachers
            assert isinstance(cached, Cached)
            for name, types in TYPES.items():
                found = it.seconds(types)
                distiller = it.trainings["auto"].distiller
                needs = distiller.asked([distiller.knowledge[one] for one in types])[0]
                kinds = sorted({field.kind for field in cached.chosen(needs)})
                print(
                    f"| {size} x {length} | {name} | {', '.join(f'{1000 * found[way]:.1f}' for way in WAYS)} "
                    f"| {found['auto'] / min(found['live'], found['all']):.2f} | {', '.join(kinds) or 'nothing'} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
