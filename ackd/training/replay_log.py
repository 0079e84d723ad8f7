"""Resume by replay: calls and results are logged; a restart replays them, then loads the last checkpoint.

Environment, agent, curves and tables follow from a training's results and from seeds, so they are not saved. A resumed
run starts from the beginning, reads the logged results, and continues training from the last checkpoint. This resumes
agents of any kind, bit for bit.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from ackd.errors import InputError, reason
from ackd.files.reading import matches_schema, read_tensors
from ackd.files.schema import parse
from ackd.runs.stopping import hold, release, stop, stop_asked
from ackd.training.records import Line, answer, line_of, plain

if TYPE_CHECKING:
    from ackd.training.replay import Training

logger = logging.getLogger("ackd")

ENTRIES, STATE = "journal.jsonl", "state.pt"
END = "end"  # last line of a finished run


class Entry(NamedTuple):
    """A line of the log; its result is parsed later."""

    method: str
    asked: list[Any]
    by_steps: bool  # whether the result is a list of lists
    line: bytes


class ReplayLog:
    """Log of a training's calls and results, one JSON line each, with a checkpoint from time to time.

    Args:
        folder: the log's folder; an existing log in it is continued.
        seconds: training time between two checkpoints; 0 saves one after every phase.

    If a line or a checkpoint cannot be written (e.g. the disk is full), only the work since the last good checkpoint
    is lost. Reading never executes code: lines are JSON, the checkpoint is read as plain tensors and numbers.

    Raises:
        InputError: if the folder contains something else.
    """

    def __init__(self, folder: Path, *, seconds: float = 60.0) -> None:
        self.folder, self.seconds = folder, seconds
        folder.mkdir(parents=True, exist_ok=True)
        entries = _read(folder / ENTRIES)
        resets = [i for i, entry in enumerate(entries) if entry.method == "reset"]
        self._state = self._load_state(len(entries), resets[-1] if resets else 0)
        self._whole = bool(entries) and entries[-1].method == END
        if not self._whole:
            last = resets[-1] if resets else 0  # without a checkpoint the current episode starts again
            entries = entries[: self._state["entries"] if self._state else last]
        self._write_all(entries)
        kept = entries[:-1] if self._whole else entries
        self._ahead = deque(kept)
        self.entries = len(kept)
        self._saved = time.monotonic()
        self._failed = False

    @property
    def replaying(self) -> bool:
        """Whether the next call is answered from the log."""
        return bool(self._ahead)

    def answer(self, training: Training, method: str, asked: list[Any], students: int | None) -> Any:
        """Returns the logged result of the next call while `replaying`, and restores the training's counters.

        Args:
            training: the training that this log belongs to.
            method: the call's name.
            asked: the call's arguments.
            students: length of the result's list, one item per student; None if the result is no list.

        Raises:
            InputError: if the log contains another call at this place, or its result cannot be read.
        """
        entry = self._ahead.popleft()
        if (entry.method, entry.asked) != (method, asked):
            raise InputError(
                f"the run in {self.folder.parent} cannot be resumed: it had {entry.method} {_short(entry.asked)}, "
                f"and now {method} {_short(asked)} is asked for: its policy, data or software has changed since, "
                "so start it anew"
            )
        if not self._ahead and self._state:
            self._load(training)
        try:
            line = parse(entry.line, line_of(method, students, by_steps=entry.by_steps))
            if not matches_schema(line.counters, training.counters()):
                raise ValueError("its counters are those of another training")
            training.load_counters(line.counters)
            return answer(line.answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self.folder / ENTRIES} has an answer to {method} that cannot be read ({error}): start the run anew"
            ) from error

    def before(self, training: Training, method: str, asked: list[Any]) -> None:
        """Prepares for a call without a logged result.

        Raises:
            InputError: if the run is finished.
            Stopped: if a signal has arrived; a checkpoint is saved first.
        """
        if self._whole:
            raise InputError(
                f"{self.folder} is of a run that is finished, and has no answer to {method} {_short(asked)}"
            )
        hold()
        if stop_asked() and method != "reset":  # before a reset, `training` may differ from the saved one
            self._stop(training)

    def after(self, training: Training, method: str, asked: list[Any], given: Any) -> None:
        """Records the result of a call.

        Raises:
            Stopped: if a signal has arrived; a checkpoint is saved first.
        """
        self._append({"verb": method, "asked": asked, "answer": plain(given), "counters": training.counters()})
        if stop_asked():
            self._stop(training)
        if method == "advance" and time.monotonic() - self._saved >= self.seconds:
            self.save(training)

    def finish(self) -> None:
        """Marks the run as finished: keeps its results and deletes its checkpoint.

        Raises:
            Stopped: if a signal has arrived.
        """
        if not self._ahead and not self._whole:
            self._append({"verb": END, "asked": [], "answer": None, "counters": {}})
        (self.folder / STATE).unlink(missing_ok=True)
        release()

    def _stop(self, training: Training) -> None:
        self.save(training)
        stop()

    def _load(self, training: Training) -> None:
        assert self._state is not None
        try:
            training.load_state_dict(self._state["state"])
        except Exception as error:  # each part raises its own kind
            raise InputError(
                f"{self.folder / STATE} does not fit this training ({reason(error)}): delete it, and the episode "
                "under way begins again"
            ) from error
        self._state = None

    def _append(self, entry: dict[str, Any]) -> None:
        if self._failed:
            return
        try:
            with (self.folder / ENTRIES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            self.entries += 1
        except OSError as error:
            self._fail(error)

    def save(self, training: Training) -> None:
        """Saves a checkpoint, unless the log is being replayed."""
        if self._failed or self._ahead or self._whole:
            return
        partial = self.folder / f".{STATE}.{os.getpid()}"
        try:
            with partial.open("wb") as file:
                torch.save({"entries": self.entries, "state": training.state_dict()}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / STATE)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            self._fail(error)
        finally:
            partial.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def _fail(self, error: Exception) -> None:
        self._failed = True
        logger.warning(
            "%s cannot be written (%s): the run goes on, and could be resumed from its last checkpoint only",
            self.folder,
            error,
        )

    def _load_state(self, entries: int, last_reset: int) -> dict[str, Any] | None:
        """The checkpoint, if it belongs to the current episode; otherwise the episode starts again at its reset."""
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            saved = read_tensors(path)
        except InputError as error:
            logger.warning("%s: the episode under way begins again", error)
            return None
        covered = saved.get("entries") if isinstance(saved, dict) and "state" in saved else None
        fits = type(covered) is int and last_reset < covered <= entries
        return cast(dict[str, Any], saved) if fits else None

    def _write_all(self, entries: Sequence[Entry]) -> None:
        partial = self.folder / f".{ENTRIES}.{os.getpid()}"
        try:
            partial.write_bytes(b"".join(entry.line + b"\n" for entry in entries))
            partial.replace(self.folder / ENTRIES)
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror}): make room or choose another"
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def _read(path: Path) -> list[Entry]:
    """The lines of a log; an incomplete last line (e.g. of a killed run) is dropped."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            found = parse(line, Line[Any])
        except ValueError as error:
            raise InputError(
                f"{path} is damaged in line {number} ({error}): start the run anew with --overwrite"
            ) from error
        by_steps = isinstance(found.answer, list) and bool(found.answer) and isinstance(found.answer[0], list)
        entries.append(Entry(found.verb, found.asked, by_steps, line))
    return entries


def _short(asked: list[Any]) -> str:
    text = json.dumps(asked)
    return text if len(text) <= 120 else text[:117] + "..."
