"""Exports a classifier as ONNX, and compares the files with the model."""

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
TOLERANCE = 1e-4  # largest difference of a logit; a share of the largest logit if that is above 1
RANDOM, LONGEST = 64, 128  # number of random texts, and their most tokens
GROUPS = (1, 8, 32)  # ends of their batches, which have 1, 7, 24 and 32 texts
CPU = torch.device("cpu")

Forward = Callable[[Batch], Tensor]
OnBatch = Callable[[int, int], object]


def export(
    model: str | Path | Model,
    format: str = "onnx",
    *,
    output: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    data: Data | None = None,
    on_batch: OnBatch = lambda done, examples: None,
    **options: Any,
) -> Exported:
    """Writes a sequence classifier as ONNX, with its config and tokenizer, in a folder that optimum can load.

    The outputs of model and files are compared on random texts, and on the dev split of the run, `task` or `data`, if
    there is one. No logit may differ by more than 1e-4 (times the largest logit, if that is above 1).

    Args:
        model: a finished run, a folder with a classifier and its tokenizer, a hub id, or a transformers model.
        format: onnx.
        output: folder for the files; `onnx` in the model's folder if None.
        tokenizer: the tokenizer of a model object; if None, that of the folder or hub id which it was loaded from.
        data: data to report on, if not the run's, as for `ackd.prepare`; likewise `dev_data`.
        on_batch: called after each batch of dev with the number of finished examples, and the number of all.
        **options: the other fields of `ExportConfig`, such as `int8`.

    Returns:
        An object with `folder`, `score` and `table()`; `versions` has the score, bytes, milliseconds and agreement of
        each version.

    Raises:
        InputError: if the model cannot be exported; then no file is written.

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
    with _source(config.model, source, objects.pop("tokenizer", None)) as found:
        exporting = Exporting(found, config, on_batch, **objects)
        with whole_folder(place) as folder:
            return exporting.write(folder, place)


def _place(config: ExportConfig, *, named: bool) -> Path:
    """The output folder.

    Args:
        config: the options.
        named: whether the model is a name, not an object.

    Raises:
        InputError: if the folder cannot be written, or has other content.
    """
    place = Path(config.output or config.beside)
    if config.output == config.beside and not (named and Path(config.model).is_dir()):
        raise InputError(f"{config.model} is not a local folder: name a folder for the files with --output")
    if place.exists() and not place.is_dir():
        raise InputError(f"the output {place} is a file: choose a folder")
    if place.is_dir() and any(place.iterdir()):
        if not (place / EXPORT).is_file():
            raise InputError(f"the output folder {place} holds other files: choose a new or empty folder")
        if not config.overwrite:
            raise InputError(f"the output folder {place} already holds an export: choose another, or add --overwrite")
        if named and place.resolve() in (Path(config.model).resolve(), *Path(config.model).resolve().parents):
            raise InputError(f"the output folder {place} contains the model {config.model}: choose another folder")
    parent = next(one for one in place.absolute().parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"the output folder {place} cannot be written: {parent} is read-only, or a file; add --output")
    return place


@contextmanager
def _source(name: str, model: object, tokenizer: Tokenizer | None) -> Iterator[Left]:
    """Yields the model to export; a model object is saved to a temporary folder."""
    if model is None:
        yield left_by(name)
        return
    if not models.is_model(model):
        raise InputError(f"the model is a {name}: give a run, a folder, a hub id or a transformers model")
    tokenizer = tokenizer_of(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        models.save_model(folder, model, tokenizer)
        yield Left(name, folder)


class Exporting:
    """Exports one model, and compares the files with it.

    Args:
        left: the model.
        config: the options.
        on_batch: as for `export`.
        **objects: `data` and `dev_data`, if they are objects.

    Raises:
        InputError: if the model cannot be loaded, or does not fit the data.
    """

    def __init__(self, left: Left, config: ExportConfig, on_batch: OnBatch, **objects: Any) -> None:
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
        """Writes all files to `folder`, which is renamed to `place` later.

        Raises:
            InputError: if the model cannot be exported, or the logits of the ONNX file differ.
        """
        files = [folder / ONNX]
        models.write_onnx(self.model, files[0], self.inputs)
        if self.config.int8:
            files.append(folder / INT8)
            models.write_int8(files[0], files[1], self.model)
        self.model.config.save_pretrained(folder)
        models.save_tokenizer(folder, self.tokenizer)
        result = self._compared(files)
        content = json.dumps(result.as_dict() | {"model": self.left.name}, indent=2) + "\n"
        write_whole(folder / EXPORT, content.encode())
        return Exported(**{**vars(result), "folder": place})

    def _compared(self, files: list[Path]) -> Exported:
        """Measures the model and the files."""
        folder = Path(self.left.folder)
        total = len(self.dev or ()) * (1 + len(files))
        forms = [
            ("torch", models.as_read(self.model, self.inputs), stored(self.model, folder if folder.is_dir() else None))
        ]
        for name, file in zip(("onnx", "int8"), files, strict=False):
            size = sum(one.stat().st_size for one in file.parent.glob(f"{file.name}*"))
            forms.append((name, OnnxModel(file), size))
        versions: list[Version] = []
        logits: list[list[NDArray[np.float64]]] = []
        for number, (name, forward, size) in enumerate(forms):
            logits.append([*self._outputs(forward, number * len(self.dev or ()), total)])
            agreement = _agreement(logits[0], logits[-1]) if number else (None, None)
            if name == "onnx":
                _check(logits[0], agreement[0] or 0.0, self.model)
            times = latencies(forward, self.dev or self.random, CPU)
            versions.append(Version(name, self._score(logits[-1]), size, times, *agreement))
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

    def _outputs(self, forward: Forward, before: int, total: int) -> Iterator[NDArray[np.float64]]:
        """Yields the logits on dev, if there is a dev split, and on the random texts, [N, C] each."""
        if self.dev is not None:
            groups = [*self.dev.by_length(32)]
            yield _logits(forward, self.dev, groups, lambda done: self.on_batch(before + done, total))
        order = np.argsort(self.random.lengths, kind="stable")
        yield _logits(forward, self.random, np.split(order, GROUPS))

    def _score(self, logits: list[NDArray[np.float64]]) -> float | None:
        """The score on dev in percent; None without a dev split."""
        if self.task is None or self.dev is None:
            return None
        ordered = np.empty_like(logits[0])  # classes in the task's order
        ordered[:, self.order] = logits[0]
        return 100 * self.task.metrics(ordered, self.dev.labels)[self.task.spec.metrics[0]]


def _random_texts(model: Model, tokenizer: Tokenizer) -> Split:
    """Texts of random tokens with 1 to `LONGEST` tokens; models with the same vocabulary get the same texts."""
    positions = getattr(model.config, "max_position_embeddings", None)
    most = positions - 4 if isinstance(positions, int) and positions > 4 else LONGEST
    longest = min(LONGEST, tokenizer.model_max_length, most)
    rng = np.random.default_rng(0)
    lengths = np.linspace(1, max(longest, 1), RANDOM).astype(np.int64)
    usable = np.setdiff1d(np.arange(min(len(tokenizer), model.config.vocab_size)), tokenizer.all_special_ids)
    with models.unchanged(tokenizer):
        encoded = tokenizer(["a"], return_attention_mask=False)
    inputs = {name: np.zeros(lengths.sum(), np.int64) for name in tokenizer.model_input_names if name in encoded}
    inputs["input_ids"] = rng.choice(usable, int(lengths.sum()))
    offsets, labels = np.concatenate([[0], np.cumsum(lengths)]), np.zeros(RANDOM, np.int64)
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Split(inputs, offsets, labels, np.arange(RANDOM), padding)


def _logits(
    forward: Forward,
    split: Split,
    groups: list[NDArray[np.int64]],
    on_group: Callable[[int], object] = lambda done: None,
) -> NDArray[np.float64]:
    """The logits of a split, [N, C], computed in groups; `on_group` is called with the number of finished examples."""
    rows, done = [], 0
    for indices in groups:
        rows.append(forward(split.batch(indices)).double().numpy())
        done += len(indices)
        on_group(done)
    logits = np.empty((len(split), rows[0].shape[1]))
    logits[np.concatenate(groups)] = np.concatenate(rows)
    return logits


def _agreement(ours: list[NDArray[np.float64]], theirs: list[NDArray[np.float64]]) -> tuple[float, float | None]:
    """The largest difference of a logit, and the share of equal decisions in the first split (None for regression)."""
    difference = max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True))
    equal = float((ours[0].argmax(1) == theirs[0].argmax(1)).mean()) if ours[0].shape[1] > 1 else None
    return difference, equal


def _check(logits: list[NDArray[np.float64]], difference: float, model: Model) -> None:
    """Raises an error if the model's logits are not finite, or the file's differ by more than `TOLERANCE`."""
    largest = max(float(np.abs(one).max()) for one in logits)
    if not np.isfinite(largest):
        raise InputError("the model's logits are NaN or infinite: its weights are damaged; train it again")
    if not difference <= TOLERANCE * max(largest, 1.0):
        raise InputError(
            f"the ONNX file of this {model.config.model_type} has other logits than torch (they differ by up to "
            f"{difference:.1e}), so nothing is written: use a model of another family, such as bert"
        )
