"""A classifier in a form that others run without torch, checked against what it was."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ackd import models
from ackd.building.checks import class_order
from ackd.building.sources import tokenizer_of
from ackd.config import checked
from ackd.errors import InputError, unknown
from ackd.experiments.comparison import latencies, stored
from ackd.experiments.export_options import ExportConfig
from ackd.experiments.exported import EXPORT, Exported, Version
from ackd.experiments.finished_run import Left, left_by, reported
from ackd.experiments.objects import by_name
from ackd.experiments.predictions import check_tokens
from ackd.files.writing import whole_folder, write_whole
from ackd.models import INT8, ONNX, Model, OnnxModel, Tokenizer
from ackd.tasks import Split
from ackd.tasks.data_sets import Data
from ackd.types import Batch

FORMATS = ("onnx",)
APART = 1e-4  # by which a logit may differ, and by that share of the largest one where that is above 1
RANDOM, LONGEST = 64, 128  # random texts, and their tokens at most
GROUPS = (1, 8, 32)  # where these are cut into batches: of 1, 7, 24 and 32 texts
CPU = torch.device("cpu")

Ask = Callable[[Batch], Tensor]
Told = Callable[[int, int], object]


def export(
    model: str | Path | Model,
    format: str = "onnx",
    *,
    output: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    data: Data | None = None,
    on_batch: Told = lambda done, examples: None,
    **options: Any,
) -> Exported:
    """Writes a sequence classifier as ONNX, with its config and tokenizer beside it, as optimum loads them.

    It is asked about dev, where a run, `task` or `data` says what that is, and about random texts, and so is what was
    written: no logit may differ by more than 1e-4 (of the largest one, where that is above 1).

    Args:
        model: a finished run, any folder with a classifier and its tokenizer, a hub id, or a transformers model.
        format: onnx.
        output: folder for the files; `onnx` in the model's folder if None.
        tokenizer: of a model that is handed over; that of its folder if None.
        data: what to report on, if not what the run does, as `ackd.prepare` takes it; `dev_data` likewise.
        on_batch: told after each batch of dev how many examples are done, and of how many.
        **options: the other fields of `ExportConfig`, such as `int8`.

    Returns:
        What has `folder`, `score`, `table()`, and of each version its score, bytes, milliseconds and agreement.

    Raises:
        InputError: if any of it cannot work, in one sentence, and nothing is written.

    Example:
        print(export("runs/student", "onnx", int8=True).table())
    """
    given = {"model": model, "format": format, "output": output, "data": data, "tokenizer": tokenizer, **options}
    plain, objects = by_name(given, "model", "data", "dev_data")
    config = checked(ExportConfig, plain, others=("tokenizer", "on_batch"))
    if config.format not in FORMATS:
        raise unknown("format", config.format, FORMATS)
    models.check_onnx()
    source = objects.pop("model", None)
    place = _place(config, named=source is None)
    with _source(config.model, source, objects.pop("tokenizer", None)) as left:
        exporting = Exporting(left, config, on_batch, **objects)
        with whole_folder(place) as folder:
            return exporting.write(folder, place)


def _place(config: ExportConfig, *, named: bool) -> Path:
    """The folder for the files, where it can be written.

    Raises:
        InputError: if it cannot.
    """
    place = Path(config.output or config.beside)
    if config.output == config.beside and not (named and Path(config.model).is_dir()):
        raise InputError(f"{config.model} is no folder that the files could go to: name one with --output")
    if place.exists() and not place.is_dir():
        raise InputError(f"the output {place} is a file: choose a folder")
    if place.is_dir() and any(place.iterdir()):
        if not (place / EXPORT).is_file():
            raise InputError(f"the output folder {place} holds other files: choose a new or empty folder")
        if not config.overwrite:
            raise InputError(f"the output folder {place} already holds an export: choose another, or add --overwrite")
        if named and place.resolve() in (Path(config.model).resolve(), *Path(config.model).resolve().parents):
            raise InputError(f"the output folder {place} holds {config.model}, which is read: choose another folder")
    above = next(one for one in place.absolute().parents if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"the output folder {place} cannot be written: {above} is read-only, or a file; add --output")
    return place


@contextmanager
def _source(name: str, model: object, tokenizer: Tokenizer | None) -> Iterator[Left]:
    """What is exported, in a folder; a model that is handed over lies there for a while."""
    if model is None:
        yield left_by(name)
        return
    if not models.is_model(model):
        raise InputError(f"the model is a {name}: give a run, a folder, a hub id or a transformers model")
    its = tokenizer_of(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        models.save_model(folder, model, its)
        yield Left(name, folder)


class Exporting:
    """A model that is written, and measured before and after.

    Args:
        left: the model.
        config: how.
        on_batch: told after each batch of dev.
        **objects: `data` and `dev_data`, where they are handed over.

    Raises:
        InputError: if it cannot be read, or does not go with what it is to be measured on.
    """

    def __init__(self, left: Left, config: ExportConfig, on_batch: Told, **objects: Any) -> None:
        self.left, self.config, self.on_batch = left, config, on_batch
        self.tokenizer = models.load_tokenizer(left.folder, padding=True)
        self.model = models.load_model(left.folder).eval()
        models.padding_of(self.model, self.tokenizer)
        self.task = reported(left, config, self.tokenizer, **objects)
        self.random = _random_texts(self.model, self.tokenizer)
        self.dev: Split | None = None
        self.order: list[int] = []
        if self.task is not None:
            self.dev = next(iter(self.task.dev.values()))
            check_tokens(self.dev, self.model, left.name)
            self.order = class_order(self.task.spec, self.model, left.name)
        self.inputs = models.onnx_inputs(self.model, tuple(self.random.inputs))

    def write(self, folder: Path, place: Path) -> Exported:
        """Writes all files into `folder`, which will be `place`.

        Raises:
            InputError: if the model cannot be written, or what was written answers otherwise.
        """
        files = [folder / ONNX]
        models.write_onnx(self.model, files[0], self.inputs)
        if self.config.int8:
            files.append(folder / INT8)
            models.write_int8(files[0], files[1], self.model)
        self.model.config.save_pretrained(folder)
        models.save_tokenizer(folder, self.tokenizer)
        found = self._compared(files)
        write_whole(
            folder / EXPORT, (json.dumps(found.as_dict() | {"model": self.left.name}, indent=2) + "\n").encode()
        )
        return Exported(**{**vars(found), "folder": place})

    def _compared(self, files: list[Path]) -> Exported:
        """The model as it is, and as it is in the files."""
        folder = Path(self.left.folder)
        total = len(self.dev or ()) * (1 + len(files))
        asked = [
            ("torch", models.as_read(self.model, self.inputs), stored(self.model, folder if folder.is_dir() else None))
        ]
        for name, file in zip(("onnx", "int8"), files, strict=False):
            size = sum(one.stat().st_size for one in file.parent.glob(f"{file.name}*"))
            asked.append((name, OnnxModel(file), size))
        versions: list[Version] = []
        answers: list[list[NDArray[np.float64]]] = []
        for number, (name, ask, size) in enumerate(asked):
            answers.append([*self._answers(ask, number * len(self.dev or ()), total)])
            agreement = _agreement(answers[0], answers[-1]) if number else (None, None)
            if name == "onnx":
                _check(answers[0], agreement[0] or 0.0, self.model)
            timed = latencies(ask, self.dev or self.random, CPU)
            versions.append(Version(name, self._score(answers[-1]), size, timed, *agreement))
        spec = self.task.spec if self.task is not None else None
        return Exported(
            folder,
            self.config.format,
            spec.name if spec else "",
            spec.metrics[0] if spec else "",
            len(self.dev or ()),
            len(self.random),
            torch.get_num_threads(),
            versions,
        )

    def _answers(self, ask: Ask, before: int, total: int) -> Iterator[NDArray[np.float64]]:
        """Logits on dev, [N, C], if there is one, and on the random texts."""
        if self.dev is not None:
            yield _logits(ask, self.dev, [*self.dev.by_length(32)], lambda done: self.on_batch(before + done, total))
        order = np.argsort(self.random.lengths, kind="stable")
        yield _logits(ask, self.random, np.split(order, GROUPS))

    def _score(self, answers: list[NDArray[np.float64]]) -> float | None:
        """On dev, in percent."""
        if self.task is None or self.dev is None:
            return None
        named = np.empty_like(answers[0])
        named[:, self.order] = answers[0]
        return 100 * self.task.metrics(named, self.dev.labels)[self.task.spec.metrics[0]]


def _random_texts(model: Model, tokenizer: Tokenizer) -> Split:
    """Texts of random tokens and of all lengths from 1 on, the same for each model of a vocabulary."""
    most = getattr(model.config, "max_position_embeddings", None)
    longest = min(LONGEST, tokenizer.model_max_length, most - 4 if isinstance(most, int) and most > 4 else LONGEST)
    rng = np.random.default_rng(0)
    lengths = np.linspace(1, max(longest, 1), RANDOM).astype(np.int64)
    usable = np.setdiff1d(np.arange(min(len(tokenizer), model.config.vocab_size)), tokenizer.all_special_ids)
    with models.unchanged(tokenizer):
        encoded = tokenizer(["a"], return_attention_mask=False)
    inputs = {name: np.zeros(lengths.sum(), np.int64) for name in tokenizer.model_input_names if name in encoded}
    inputs["input_ids"] = rng.choice(usable, int(lengths.sum()))
    offsets, nothing = np.concatenate([[0], np.cumsum(lengths)]), np.zeros(RANDOM, np.int64)
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Split(inputs, offsets, nothing, np.arange(RANDOM), padding)


def _logits(
    ask: Ask, split: Split, groups: list[NDArray[np.int64]], told: Callable[[int], object] = lambda done: None
) -> NDArray[np.float64]:
    """[N, C], asked in groups."""
    rows, done = [], 0
    for indices in groups:
        rows.append(ask(split.batch(indices)).double().numpy())
        done += len(indices)
        told(done)
    found = np.empty((len(split), rows[0].shape[1]))
    found[np.concatenate(groups)] = np.concatenate(rows)
    return found


def _agreement(ours: list[NDArray[np.float64]], theirs: list[NDArray[np.float64]]) -> tuple[float, float | None]:
    """The largest difference of a logit, and over the first texts the share of equal decisions, if these are any."""
    apart = max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True))
    equal = float((ours[0].argmax(1) == theirs[0].argmax(1)).mean()) if ours[0].shape[1] > 1 else None
    return apart, equal


def _check(ours: list[NDArray[np.float64]], difference: float, model: Model) -> None:
    """Refuses what answers otherwise than the model."""
    largest = max(float(np.abs(one).max()) for one in ours)
    if not np.isfinite(largest):
        raise InputError("the model answers NaN or infinity: its weights are damaged; train it anew")
    if not difference <= APART * max(largest, 1.0):
        raise InputError(
            f"the ONNX file of this {model.config.model_type} answers otherwise than torch (a logit differs by "
            f"{difference:.1e}), so it is not kept: take a family whose file agrees, such as bert"
        )
