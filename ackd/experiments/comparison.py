"""Compares student and teacher after a training: scores, sizes, and inference cost on this machine."""

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
from ackd.tasks import EMBEDDINGS, LANGUAGE, SUBMISSIONS, Split
from ackd.teachers.cache.budget import readable
from ackd.training.distillation import Distillation
from ackd.types import Batch, OutputRequest, Teacher, decimals

FILE = "comparison.json"
BATCHES = (1, 32)  # batch sizes to time
CALLS, BRIEF, LONG = 7, 0.2, 1.0  # timed calls; seconds after which no more are made; longest batch to time, in s
LOGITS = OutputRequest(logits=True)

Ask = Callable[[Batch], object]


@dataclass(frozen=True)
class Side:
    """One of the two compared models.

    Args:
        score: dev score in percent; for a language model the loss per token.
        size: layers and parameters.
        bytes: size of the weights, on disk if they are saved.
        flops: FLOPs of a forward pass for one example of median length.
        milliseconds: latency of a forward pass, by batch size; empty if not measured.
    """

    score: float | None
    size: Size
    bytes: int | None = None
    flops: float | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A student beside its teacher, if it had one.

    Args:
        metric: name of the score.
        student: the student.
        teacher: the first teacher.
        training: FLOPs of the whole run.
        device: device of the timing.
        task: task of a classifier; "language" for a language model.
    """

    metric: str
    student: Side
    teacher: Side | None
    training: float
    device: str
    task: str

    def as_dict(self) -> dict[str, Any]:
        """The content of `comparison.json`."""
        return asdict(self)

    def table(self) -> str:
        """A table of both models, with a row for each known number."""
        sides = [self.student, *([self.teacher] if self.teacher is not None else [])]
        heads = ["", "student" if len(sides) == 2 else "model", "teacher"][: len(sides) + 1]
        rows = [heads, *([name, *cells] for name, cells in _rows(self.metric, sides) if any(cells))]
        return "\n".join([*aligned(rows), f"FLOPs of the training: {counted(self.training)}"])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats the rows of a table as lines: the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]  # fmt: skip


def _rows(metric: str, sides: Sequence[Side]) -> Iterator[tuple[str, list[str]]]:
    """The rows of the table, in order."""
    places = 4 if metric == "loss" else decimals(metric)
    yield f"{metric} on dev", [shown(one.score, f".{places}f") for one in sides]
    yield "layers", [str(one.size.layers) for one in sides]
    yield "parameters", [shown(one.size.parameters, ",") for one in sides]
    yield "weights", ["" if one.bytes is None else readable(one.bytes) for one in sides]
    yield "FLOPs an answer", ["" if one.flops is None else counted(one.flops) for one in sides]
    for count in BATCHES:
        cells = [shown(one.milliseconds.get(count), ".2f") for one in sides]
        yield f"ms for {count} example{'s' * (count > 1)}", cells


def counted(flops: float) -> str:
    """FLOPs as text, for example 2.09 M for 2.09e6."""
    for unit in ("", " k", " M", " G", " T", " P"):
        if float(f"{flops:.3g}") < 1000:
            return f"{flops:.3g}{unit}"
        flops /= 1000
    return f"{flops:.3g} E"


def shown(value: float | None, form: str) -> str:
    """Formats a number; an empty text for None."""
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
    """Compares the student of a training with its teacher.

    Args:
        training: the training with the student.
        result: the fields of the run's `result.json`.
        spent: costs of the run.
        model: the student; if None, the student of `training`.
        folder: folder of the saved student, if any.
        timed: measure latencies here, for two seconds at most.
    """
    model = (model if model is not None else training.student.model).eval()
    split = next(iter(training.task.dev.values()))
    typical = int(np.median(split.read_lengths))
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
    """Bytes of a model's weights: of the files in its folder, or else of its tensors."""
    files = [] if folder is None else [*folder.glob("model*.safetensors")]
    return sum(path.stat().st_size for path in files) or sum(one.nbytes for one in model.parameters())


def answering(model: Model, precision: Precision) -> Ask:
    """The forward pass of a model as users run it, in eval mode and without gradients."""

    def ask(batch: Batch) -> object:
        with torch.no_grad(), computing(precision, model.device):
            return run(model, batch, LOGITS)

    return ask


def latencies(ask: Ask, split: Split, device: torch.device) -> dict[int, float]:
    """Milliseconds of a forward pass, by batch size: medians of a few calls.

    A single example has median length. Larger batches take examples at even distances over the split, padded to the
    longest. A batch that would take more than a second is left out.
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
    """The median of a few calls after a warm-up call; a slow warm-up call is the only call and counts."""
    taken: list[float] = []
    while len(taken) <= CALLS and sum(taken) < BRIEF:
        start = time.perf_counter()
        ask(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[1:] or taken)


def use(task: str, folder: Path, columns: Sequence[str] = ()) -> str:
    """How to use a saved model: from Python, and with `ackd predict` if it supports the task.

    Args:
        task: name of the task; "language" for a language model.
        folder: the model's folder.
        columns: text columns of a user's own data.
    """
    if task == EMBEDDINGS:
        return f'use it:  sentence_transformers.SentenceTransformer("{folder}").encode(["A text."])'
    kind = "text-generation" if task == LANGUAGE.name else "text-classification"
    lines = [f'use it:  transformers.pipeline("{kind}", model="{folder}")("A text.")']
    if columns or task in SUBMISSIONS:
        data = f" --data FILE --text-columns {shlex.join(columns)}" if columns else ""
        words = shlex.join(["ackd", "predict", "--model", str(folder), "--task", task])
        lines.append(f"         {words}{data} --output FOLDER")
    return "\n".join(lines)
