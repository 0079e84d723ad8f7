"""A model that a finished run has left, and the dev split that the run reported on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ackd import models, tasks
from ackd.building.sources import seen_by
from ackd.config import DataConfig, checked, cut, names_of
from ackd.errors import InputError
from ackd.experiments.export_options import ExportConfig
from ackd.models import Tokenizer
from ackd.runs.log import is_run, open_run
from ackd.tasks.data_sets import Data

logger = logging.getLogger("ackd")

UNNAMED = "data"  # the task of data without a name


@dataclass(frozen=True)
class Left:
    """A model, and the settings of the run that it is of.

    Args:
        name: as it was given.
        folder: where the model lies; a hub id as it is.
        settings: of its run; empty if there is none.
    """

    name: str
    folder: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def left_by(source: str) -> Left:
    """The model of a finished run, of the folder that a run has it in, or of any other place.

    Raises:
        InputError: if there is none, its run has not come to its end, or it is no classifier.
    """
    path = Path(source)
    above = [path.absolute().parent] if path.name in ("student", "model") else []
    run = next((open_run(one) for one in (path, *above) if is_run(one)), None)
    if run is not None and not run.finished:
        raise InputError(f"the run in {run.path} has not come to its end: finish it with --resume, or take another")
    try:
        folder = models.model_folder(source)
    except InputError:
        if run is None:
            raise
        raise InputError(
            f"the run in {source} is of ackd {run.command} and has left no student: name another"
        ) from None
    if run is not None and not models.is_classifier(folder):
        raise InputError(f"the run in {run.path} has left no classifier: name one that has")
    return Left(source, folder, {} if run is None else run.settings)


def reported(left: Left, config: ExportConfig, tokenizer: Tokenizer, **objects: Any) -> tasks.Task | None:
    """The task whose dev split a model is reported on: the one that is named, or else its run's as that was cut.

    Args:
        left: the model.
        config: what is given comes before what the run says.
        tokenizer: of the model.
        **objects: `data` and `dev_data`, where they are handed over.

    Returns:
        None if neither says what it is, or what the run says can no longer be read, which is told then.

    Raises:
        InputError: if what is given cannot be read.
    """
    names = [name for name in names_of(DataConfig) if hasattr(config, name)]
    given = {name: getattr(config, name) for name in names if getattr(config, name) not in (None, ())}
    named = config.task is not None or bool(given) or bool(objects)
    same = config.task in (None, left.settings.get("task"))
    its = {name: left.settings[name] for name in names_of(DataConfig) if same and name in left.settings}
    task = config.task or (left.settings.get("task") if same else None) or (UNNAMED if named else None)
    if not isinstance(task, str):
        return None
    length = min(DataConfig().max_length, tokenizer.model_max_length)
    try:
        options = checked(DataConfig, {"max_length": length, **its, **given})
        moved = not same or "data" in given or "data" in objects
        return _loaded(task, options, tokenizer, _seen(left, own=moved or not left.settings), **objects)
    except InputError as error:
        if named:
            raise
        logger.warning(
            "%s has no dev split any more (%s): answers are compared on random texts alone", left.name, error
        )
        return None


def _loaded(name: str, options: DataConfig, tokenizer: Tokenizer, seen: tasks.Seen, **objects: Any) -> tasks.Task:
    """The task, with no more examples to learn from than there must be, and none set aside for rewards."""
    data: Data | None = objects.get("data", options.data)
    dev_data: Data | None = objects.get("dev_data", options.dev_data)
    spec = tasks.spec_of(name, data=data, text_columns=options.text_columns, label_column=options.label_column)
    few = replace(options, max_examples=4 * spec.num_labels, reward_examples=0, wrong_labels=0.0)
    return tasks.load(name, tokenizer, data=data, dev_data=dev_data, seen=seen, **cut(few))


def _seen(left: Left, *, own: bool) -> tasks.Seen:
    """What a dev split that is cut from training data has to be apart from.

    Args:
        left: the model.
        own: what the model itself has learned from; else what its run began with, from which dev was cut.
    """
    if own:
        return tasks.read_seen(left.folder) or tasks.UNKNOWN
    teacher, start = left.settings.get("teacher") or (), left.settings.get("student") or left.settings.get("model")
    teachers = [teacher] if isinstance(teacher, str) else list(teacher)
    return seen_by(teachers, (start,), "dev")  # nothing is rewarded, so nobody is warned
