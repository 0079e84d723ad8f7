"""Student against teacher, when a training has ended: scores, sizes, and what an answer takes on this machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ackd.building.sources import folder_of
from ackd.config import Precision
from ackd.costs import CostTracker
from ackd.experiments.beginning import Size, asked, model_behind, size_of, size_of_teacher
from ackd.models import Meter, Model, run
from ackd.numerics.precision import computing
from ackd.tasks import SUBMISSIONS, Split
from ackd.teachers.cache.budget import readable
from ackd.training.distillation import Distillation
from ackd.types import Batch, OutputRequest, Teacher

FILE = "comparison.json"
BATCHES = (1, 32)  # examples that are answered at a time
CALLS, BRIEF, LONG = 7, 0.2, 1.0  # calls that a median is of, fewer after so many seconds; what is left out, in seconds
LOGITS = OutputRequest(logits=True)

Ask = Callable[[Batch], object]


@dataclass(frozen=True)
class Side:
    """One of two models.

    Args:
        score: on dev, in percent; of a language model the loss of a token.
        size: layers and parameters.
        bytes: of its weights, on disk where they lie there.
        flops: of an answer about one example of median length.
        milliseconds: of an answer to so many examples at once; empty if it was not measured.
    """

    score: float | None
    size: Size
    bytes: int | None = None
    flops: float | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A student, and its teacher if it had one.

    Args:
        metric: what the score is.
        student: the student.
        teacher: the first of its teachers.
        training: FLOPs of everything that the run did.
        device: where the answers were timed.
        task: of a classifier; "language" of a language model.
    """

    metric: str
    student: Side
    teacher: Side | None
    training: float
    device: str
    task: str

    def as_dict(self) -> dict[str, Any]:
        """As `comparison.json` has it."""
        return asdict(self)

    def table(self) -> str:
        """Both side by side, a row for each number that is known."""
        sides = [self.student, *([self.teacher] if self.teacher is not None else [])]
        heads = ["", "student" if len(sides) == 2 else "model", "teacher"][: len(sides) + 1]
        rows = [heads, *([name, *cells] for name, cells in _rows(self.metric, sides) if any(cells))]
        return "\n".join([*aligned(rows), f"FLOPs of the training: {counted(self.training)}"])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]  # fmt: skip


def _rows(metric: str, sides: Sequence[Side]) -> Iterator[tuple[str, list[str]]]:
    """What is told of each side, in its order."""
    decimals = 4 if metric == "loss" else 2
    yield f"{metric} on dev", [shown(one.score, f".{decimals}f") for one in sides]
    yield "layers", [str(one.size.layers) for one in sides]
    yield "parameters", [shown(one.size.parameters, ",") for one in sides]
    yield "weights", ["" if one.bytes is None else readable(one.bytes) for one in sides]
    yield "FLOPs an answer", ["" if one.flops is None else counted(one.flops) for one in sides]
    for count in BATCHES:
        cells = [shown(one.milliseconds.get(count), ".2f") for one in sides]
        yield f"ms for {count} example{'s' * (count > 1)}", cells


def counted(flops: float) -> str:
    """FLOPs as people write them: 2.09 M for 2.09e6."""
    for unit in ("", " k", " M", " G", " T", " P"):
        if float(f"{flops:.3g}") < 1000:
            return f"{flops:.3g}{unit}"
        flops /= 1000
    return f"{flops:.3g} E"


def shown(value: float | None, form: str) -> str:
    """A number as its column has it; nothing if it is not known."""
    return "" if value is None else format(value, form)


def compare(
    training: Distillation,
    result: Mapping[str, Any],
    spent: CostTracker,
    *,
    model: Model | None = None,
    folder: Path | None = None,
    timed: bool = True,
) -> Comparison:
    """The student that a training has made, beside its teacher.

    Args:
        training: which holds the student.
        result: the fields of the run's `result.json`.
        spent: what the run took.
        model: the student, if not the training's own.
        folder: where it was saved, if it was.
        timed: measure what an answer takes here: two seconds at most.
    """
    model = (model if model is not None else training.student.model).eval()
    split = next(iter(training.task.dev.values()))
    typical = int(np.median(split.lengths)) - int(split.language)
    ours = Side(
        result.get("dev_score", result.get("dev_loss")),
        size_of(model),
        stored(model, folder),
        Meter(model)(LOGITS).forward(1, typical),
        latencies(answering(model, training.precision), split, model.device) if timed else {},
    )
    teacher = next(iter(asked(training)), None) if training.reference is not None else None
    score = result.get("teacher_score", result.get("teacher_loss"))
    theirs = None if teacher is None else _teacher(teacher, score, split, typical, training.device, timed)
    metric, kind = result["metric"], result["task"]
    return Comparison(metric, ours, theirs, sum(spent.flops.values()), str(model.device), kind)


def _teacher(
    teacher: Teacher, score: float | None, split: Split, typical: int, device: torch.device, timed: bool
) -> Side:
    model, nothing = model_behind(teacher), CostTracker()
    read_from = None if model is None else folder_of(model)
    return Side(
        score,
        size_of_teacher(teacher),
        None if model is None else stored(model, Path(read_from) if read_from else None),
        teacher.flops(LOGITS, 1, typical),
        latencies(lambda batch: teacher(batch, LOGITS, nothing), split, device) if timed else {},
    )


def stored(model: Model, folder: Path | None) -> int:
    """Bytes of a model's weights: of the files in its folder, or, where there are none, of its tensors."""
    files = [] if folder is None else [*folder.glob("model*.safetensors")]
    return sum(path.stat().st_size for path in files) or sum(one.nbytes for one in model.parameters())


def answering(model: Model, precision: Precision) -> Ask:
    """A model as a user asks it, in eval mode and without gradient."""

    def ask(batch: Batch) -> object:
        with torch.no_grad(), computing(precision, model.device):
            return run(model, batch, LOGITS)

    return ask


def latencies(ask: Ask, split: Split, device: torch.device) -> dict[int, float]:
    """Milliseconds of an answer, by the examples that are asked about at once: medians of a few calls.

    One example is one of median length; several are spread evenly over the split, and padded to their longest. What
    would take more than a second is left out.
    """
    order = np.argsort(split.lengths, kind="stable")
    found: dict[int, float] = {}
    for count in BATCHES:
        if found and found[BATCHES[0]] * count > 1000 * LONG:
            break
        indices = order[[len(order) // 2]] if count == 1 else np.arange(count) * len(split) // count
        found[count] = 1000 * _seconds(ask, split.batch(indices).to(device), device)
    return found


def _seconds(ask: Ask, batch: Batch, device: torch.device) -> float:
    """The median of a few calls after a first one, which sets things up and counts only where it takes long."""
    taken: list[float] = []
    while len(taken) <= CALLS and sum(taken) < BRIEF:
        start = time.perf_counter()
        ask(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[1:] or taken)


def use(task: str, folder: Path, columns: Sequence[str] = ()) -> str:
    """How a model that was saved is used: from Python, and by `ackd predict` where that knows the task.

    Args:
        task: its name; "language" of a language model.
        folder: of the model.
        columns: of text, where the task is a user's own.
    """
    kind = "text-generation" if task == "language" else "text-classification"
    lines = [f'use it:  transformers.pipeline("{kind}", model="{folder}")("A text.")']
    if columns or task in SUBMISSIONS:
        data = f" --data FILE --text-columns {shlex.join(columns)}" if columns else ""
        words = shlex.join(["ackd", "predict", "--model", str(folder), "--task", task])
        lines.append(f"         {words}{data} --output FOLDER")
    return "\n".join(lines)
