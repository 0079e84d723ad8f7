"""Writes a model's predictions to files, for GLUE's leaderboard or a user's own texts."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ackd import models, tasks
from ackd.building.checks import check_device, class_order
from ackd.building.sources import teacher_of
from ackd.config import checked
from ackd.costs import CostTracker
from ackd.errors import InputError, unknown
from ackd.experiments.objects import by_name
from ackd.experiments.student_options import PredictConfig
from ackd.files.writing import write_whole
from ackd.models import Model, Tokenizer
from ackd.tasks import Split, Submission, tokenise
from ackd.tasks.data_sets import Data
from ackd.tasks.rows import Rows
from ackd.teachers import ModelTeacher
from ackd.training.measuring import answers
from ackd.types import Batch, OutputRequest, Outputs

COLUMNS = ("index", "prediction")


def predict(
    model: str | Path | Model,
    task: str,
    output: str | Path,
    *,
    data: Data | None = None,
    tokenizer: Tokenizer | None = None,
    on_batch: Callable[[int, int], object] = lambda done, rows: None,
    **options: Any,
) -> dict[Path, list[str]]:
    """Writes a model's predictions for the test split of a GLUE task, or for your own texts.

    Args:
        model: a folder with a fine-tuned model, a run's folder that contains one, or a hub id; or a transformers model,
            which is then frozen and converted to float32.
        task: a GLUE task, or ax for an MNLI model; or any name for your own data, which also names the file.
        output: the folder for the files; it may contain other files.
        data: as for `ackd.prepare`; the text columns of a `Dataset` are found, and labels are ignored.
        tokenizer: tokenizer of a model given as an object; if None, the one in its folder.
        on_batch: called after each batch with the number of finished rows and of all rows.
        **options: the other fields of `PredictConfig`, such as `text_columns`, `split` and `device`.

    Returns:
        The predictions by file. Each file is TSV with a header, and is written completely or not at all.

    Raises:
        InputError: in one sentence, if an argument cannot be used; no file is written then.
    """
    given = {"model": model, "task": task, "output": output, "data": data, "tokenizer": tokenizer, **options}
    plain, objects = by_name(given, "model", "data")
    config = checked(PredictConfig, plain, others=("tokenizer", "on_batch"))
    data = objects.get("data", config.data)
    own = tasks.is_own(data, config.text_columns)
    known = None if own else _submission(task, config.text_columns, config.split)
    splits = {task: config.split or ""} if known is None else known.splits
    if not re.fullmatch(r"[^/.][^/]*", task):
        raise InputError(f"the task {task!r} gives its file its name: take letters and digits")
    files = {name: Path(config.output) / f"{name}.tsv" for name in splits}
    _check_files(list(files.values()), config.overwrite)
    place = check_device(config.device)
    if known is not None:
        rows = {name: known.rows(data, one) for name, one in splits.items()}
    else:
        assert data is not None
        rows = {task: tasks.own_texts(task, data, config.text_columns, config.split)}
    found = _predicted(*_asked(config, place, **objects), known, rows, config, on_batch)
    for name, words in found.items():
        write_whole(files[name], _table(rows[name].ids.tolist(), words).encode())
    return {files[name]: words for name, words in found.items()}


def _asked(config: PredictConfig, place: torch.device, **objects: Any) -> tuple[ModelTeacher, Tokenizer]:
    """The model and its tokenizer."""
    if "model" not in objects:
        model = models.load_model(config.model, device=place)
        return ModelTeacher(model, precision=config.precision), models.load_tokenizer(config.model)
    if not models.is_model(objects["model"]):
        raise InputError(f"the model is a {config.model}: give a folder, a hub id or a transformers model")
    teacher, its = teacher_of(objects["model"], str(place), config.precision, objects.get("tokenizer"))
    assert isinstance(teacher, ModelTeacher)
    return teacher, its


def _predicted(
    teacher: ModelTeacher,
    tokenizer: Tokenizer,
    known: Submission | None,
    rows: Mapping[str, Rows],
    config: PredictConfig,
    on_batch: Callable[[int, int], object],
) -> dict[str, list[str]]:
    """The model's predictions for the rows of each file."""
    source = config.model
    tasks.check_max_length(tokenizer, config.max_length)
    asked = known or _own(config.task, teacher.model)
    order = class_order(asked.spec, teacher.model, source) if known else range(len(asked.words))
    total, done, found = sum(map(len, rows.values())), 0, {}

    def ask(batch: Batch, needs: OutputRequest, costs: CostTracker) -> Outputs:
        nonlocal done
        outputs = teacher(batch, needs, costs)
        done += len(batch.ids)
        on_batch(done, total)
        return outputs

    for name, those in rows.items():
        texts = tokenise(those.texts, those.labels, those.ids, tokenizer, config.max_length)
        check_tokens(texts, teacher.model, source)
        logits, _ = answers(ask, texts, teacher.model.device, teacher.shape.vocabulary)
        if not np.isfinite(logits).all():
            raise InputError(f"the model {source} answers NaN or infinity: its weights are damaged; train it anew")
        found[name] = _words(asked, logits, order)
    return found


def _submission(task: str, text_columns: Sequence[str], split: str | None) -> Submission:
    """The leaderboard's format for a task."""
    if text_columns or split is not None:
        raise InputError("--text-columns and --split go with data of your own: name it with --data, or leave them away")
    if task in tasks.EMBEDDED:
        raise InputError(f"the task {task} is generated and has no test split: name a GLUE task, or data of your own")
    if task not in tasks.SUBMISSIONS:
        raise unknown("task", task, tasks.SUBMISSIONS)
    return tasks.SUBMISSIONS[task]


def _own(task: str, model: Model) -> Submission:
    """The format for a user's own texts: class names, class numbers, or a number."""
    count = model.config.num_labels
    if getattr(model.config, "problem_type", None) == "multi_label_classification":
        raise InputError("the model gives a text several labels at once: give one that was fine-tuned to choose one")
    classes = tuple(models.class_names(model) or map(str, range(count))) if count > 1 else ()
    return Submission(tasks.TaskSpec(task, (), "", classes, ()), {}, classes)


def _check_files(files: Sequence[Path], overwrite: bool) -> None:
    """Checks that the files can be written."""
    for file in files:
        if file.exists() and not (overwrite and file.is_file()):
            raise InputError(f"{file} is there already: choose another folder, or add --overwrite")
    folder = files[0].parent
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"the output folder {folder} cannot be written: {existing} is read-only, or a file")


def check_tokens(texts: Split, model: Model, source: str) -> None:
    """Checks that the model supports the lengths and tokens of the texts."""
    models.check_length(model, int(texts.lengths.max()), source)
    size, largest = models.shape_of(model).vocabulary, int(texts.inputs["input_ids"].max())
    if largest >= size:
        raise InputError(
            f"the model {source} has a vocabulary of {size}, and its tokenizer gives the token {largest}: they do not "
            "belong together"
        )


def _words(asked: Submission, logits: NDArray[np.float64], order: Sequence[int]) -> list[str]:
    """[N], the prediction for each row, from logits [N, C]; the columns are the classes in `order`."""
    if asked.spec.regression:
        return [f"{value:.6g}" for value in (logits[:, 0].clip(*asked.limits) + 0.0).tolist()]
    return [asked.words[order[place]] for place in logits.argmax(1).tolist()]


def _table(index: Sequence[int], words: Sequence[str]) -> str:
    """Formats predictions as tab-separated values."""
    file = io.StringIO()
    rows = csv.writer(file, delimiter="\t", lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(zip(index, words, strict=True))
    return file.getvalue()
