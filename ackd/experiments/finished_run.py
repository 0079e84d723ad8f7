"""The model of a finished run, and the dev split of its report."""

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
from ackd.runs.log import finished_run
from ackd.tasks.data_sets import Data

logger = logging.getLogger("ackd")

UNNAMED = "data"  # the task's name if only data are given


@dataclass(frozen=True)
class Left:
    """A model, and the settings of its run.

    Args:
        name: the name as given by the user.
        folder: the model's folder, or its hub id.
        settings: settings of the run; empty if the model has no run.
    """

    name: str
    folder: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def left_by(source: str) -> Left:
    """The model of a finished run, of the model's folder in a run, of any other folder, or of a hub id.

    Raises:
        InputError: if there is no model, or its run is not finished or has no classifier.
    """
    run = finished_run(Path(source))
    try:
        folder = models.model_folder(source)
    except InputError:
        if run is None:
            raise
        raise InputError(
            f"the run in {source} is of ackd {run.command} and contains no student: name another"
        ) from None
    if run is not None and not models.is_classifier(folder):
        raise InputError(f"the run in {run.path} contains no classifier: name another")
    return Left(source, folder, {} if run is None else run.settings)


def reported(left: Left, config: ExportConfig, tokenizer: Tokenizer, **objects: Any) -> tasks.Task | None:
    """The task to report on: the one in the options, or else the run's, with the same dev split.

    Args:
        left: the model.
        config: the options, which override the settings of the run.
        tokenizer: the model's tokenizer.
        **objects: `data` and `dev_data`, if they are objects.

    Returns:
        The task; None if no task is known, or if the run's data can no longer be read, with a warning.

    Raises:
        InputError: if the data in the options cannot be read.
    """
    names = [name for name in names_of(DataConfig) if hasattr(config, name)]
    given = {name: getattr(config, name) for name in names if getattr(config, name) not in (None, ())}
    explicit = config.task is not None or bool(given) or bool(objects)
    same = config.task in (None, left.settings.get("task"))
    recorded = {name: left.settings[name] for name in names_of(DataConfig) if same and name in left.settings}
    task = config.task or (left.settings.get("task") if same else None) or (UNNAMED if explicit else None)
    if not isinstance(task, str):
        return None
    length = min(DataConfig().max_length, tokenizer.model_max_length)
    try:
        options = checked(DataConfig, {"max_length": length, **recorded, **given})
        other = not same or "data" in given or "data" in objects
        return _loaded(task, options, tokenizer, _seen(left, own=other or not left.settings), **objects)
    except InputError as error:
        if explicit:
            raise
        logger.warning("the dev split of %s cannot be read (%s): only random texts are compared", left.name, error)
        return None


def _loaded(name: str, options: DataConfig, tokenizer: Tokenizer, seen: tasks.Seen, **objects: Any) -> tasks.Task:
    """The task with as few training examples as possible and without a reward split; only dev is needed."""
    data: Data | None = objects.get("data", options.data)
    dev_data: Data | None = objects.get("dev_data", options.dev_data)
    spec = tasks.spec_of(name, data=data, text_columns=options.text_columns, label_column=options.label_column)
    few = replace(options, max_examples=4 * spec.num_labels, reward_examples=0, wrong_labels=0.0)
    return tasks.load(name, tokenizer, data=data, dev_data=dev_data, seen=seen, **cut(few))


def _seen(left: Left, *, own: bool) -> tasks.Seen:
    """The training data of models, which a dev split must not contain.

    Args:
        left: the model.
        own: whether to return the data of the model itself; otherwise those of the teachers and of the initial student
            of its run, because the run cut its dev split by them.
    """
    if own:
        return tasks.read_seen(left.folder) or tasks.UNKNOWN
    teacher, start = left.settings.get("teacher") or (), left.settings.get("student") or left.settings.get("model")
    teachers = [teacher] if isinstance(teacher, str) else list(teacher)
    return seen_by(teachers, (start,), "dev")  # "dev" avoids a warning about rewards, which are not used
