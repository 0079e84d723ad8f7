"""Trackers by name: TensorBoard, and wandb, mlflow and trackio through accelerate."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.errors import InputError, reason, unknown
from ackd.runs.curves import RUN, Curves, Plain, Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

logger = logging.getLogger("ackd")

TENSORBOARD, NONE = "tensorboard", "none"
ELSEWHERE = ("wandb", "mlflow", "trackio")  # each a package of the same name
TRACKERS = (TENSORBOARD, *ELSEWHERE)
PROJECT = "ackd"  # default of WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME and TRACKIO_PROJECT


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Checks names of trackers and removes duplicates; `none` gives an empty tuple.

    Raises:
        InputError: if a tracker is unknown or not installed, or `none` is combined with others.
    """
    for name in names:
        if name not in (*TRACKERS, NONE):
            raise unknown("tracker", name, (*TRACKERS, NONE))
    if NONE in names:
        if len(set(names)) > 1:
            raise InputError(f"--report-to is {' '.join(names)}: name trackers, or none")
        return ()
    for name in names:
        if name in ELSEWHERE and find_spec(name) is None:
            raise InputError(f"--report-to {name} needs the package {name}, which is not installed: pip install {name}")
    return tuple(dict.fromkeys(names))


@contextmanager
def opened(names: Sequence[str], folder: Path, name: str, options: Mapping[str, Plain]) -> Iterator[Curves]:
    """Context manager that opens a run's trackers and closes them at the end.

    Args:
        names: names of trackers, as returned by `check_trackers`.
        folder: folder of TensorBoard's files; it is emptied first.
        name: name of the run in the other trackers.
        options: the run's options.

    Raises:
        InputError: if a tracker cannot start.
    """
    trackers: list[Tracker] = []
    with _state(any(one in ELSEWHERE for one in names)):
        for one in names:
            try:
                trackers.append(_tensorboard(folder) if one == TENSORBOARD else Elsewhere(one, name))
            except BaseException:
                Curves(trackers).close()
                raise
        with closing(Curves(trackers)) as curves:
            curves.options(options)
            yield curves


def _tensorboard(folder: Path) -> Tracker:
    from ackd.runs.tensorboard import TensorBoard

    return TensorBoard(folder)


@contextmanager
def _state(needed: bool) -> Iterator[None]:
    """Sets accelerate's state, which its trackers need, temporarily to a single process (ignoring a launcher)."""
    if not needed:
        yield
        return
    from accelerate import PartialState
    from accelerate.utils import clear_environment

    ours = not PartialState._shared_state
    if ours:
        with clear_environment():
            PartialState(cpu=True)
    try:
        yield
    finally:
        if ours:
            PartialState._reset_state()


class Elsewhere:
    """A tracker of accelerate. If it fails during a run, a warning is logged and the run continues without it.

    Args:
        kind: one of `ELSEWHERE`.
        name: name of the run.

    Raises:
        InputError: if the tracker cannot start.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self._axes: set[str] = set()  # tags with an axis defined in wandb
        self._lost = False
        try:
            self._tracker = _made(kind, name)
            self._tracker.main_process_only = False  # only the first process creates trackers
            self._tracker.start()
        except Exception as error:
            raise InputError(
                f"{kind} could not begin ({reason(error)}): set it up, or leave it out of --report-to"
            ) from error

    def options(self, values: Mapping[str, Plain]) -> None:
        """Stores the run's options as its configuration."""
        self._try("store_init_configuration", dict(values))

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Writes values at a step; for wandb the axis is a value too, because wandb's own steps can only grow."""
        if self.kind != "wandb":
            self._try("log", dict(values), step=step)
        elif axis == RUN:
            self._try("log", dict(values))
        else:
            self._define(axis, values)
            self._try("log", {**values, axis: step})

    def close(self, *, finished: bool) -> None:
        """Finishes the run in the tracker."""
        del finished  # a complete run has values `result/…`
        self._try("finish")

    def _define(self, axis: str, tags: Mapping[str, float]) -> None:
        for tag in tags.keys() - self._axes:
            self._axes.add(tag)
            self._tracker.tracker.define_metric(tag, step_metric=axis)

    def _try(self, method: str, *given: Any, **named: Any) -> None:
        if self._lost:
            return
        try:
            getattr(self._tracker, method)(*given, **named)
        except Exception as error:
            self._lost = True
            logger.warning("%s failed (%s): the run goes on without it", self.kind, reason(error))


def _made(kind: str, name: str) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    if kind == "wandb":
        return WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=name)
    if kind == "mlflow":
        return MLflowTracker(PROJECT, run_name=name)
    return TrackioTracker(os.environ.get("TRACKIO_PROJECT", PROJECT), name=name)
