"""Resume by replay: calls and results are logged; a restart replays them, then loads the last checkpoint.

Environment, agent, curves and tables follow from a training's results and from seeds, so none of them is saved: a
resumed run starts from the beginning, gets the logged results at once, and trains on from the last checkpoint. Agents
of any kind resume so, bit for bit.
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
END = "end"  # of a run that is finished


class Entry(NamedTuple):
    """A line that was read, its answer not yet."""

    method: str
    asked: list[Any]
    by_steps: bool  # whether the answer is a list of lists
    line: bytes


class ReplayLog:
    """The calls of a training and their answers, one JSON line each, and from time to time the training's state.

    Args:
        folder: where; what is there is taken up.
        seconds: of training between two saved states; 0 saves after every phase.

    A line or a state that cannot be written, as on a full disk, costs no more than the work since the last good state.
    Nothing that is read is executed: lines are JSON, the state is read as plain tensors and numbers.

    Raises:
        InputError: if the folder holds something else.
    """

    def __init__(self, folder: Path, *, seconds: float = 60.0) -> None:
        self.folder, self.seconds = folder, seconds
        folder.mkdir(parents=True, exist_ok=True)
        entries = _read(folder / ENTRIES)
        resets = [i for i, entry in enumerate(entries) if entry.method == "reset"]
        self._state = self._load_state(len(entries), resets[-1] if resets else 0)
        self._whole = bool(entries) and entries[-1].method == END
        if not self._whole:
            last = resets[-1] if resets else 0  # without a state the episode under way begins again
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
        """What it has for the next call while it is `replaying`, and the training as it was then.

        Args:
            training: of which it is kept.
            method: the call's name.
            asked: what it was given.
            students: how many of them the answer is a list for; None: it is no list.

        Raises:
            InputError: if it has another call here, or what it has cannot be read.
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
        """Gets ready for a call that it has no answer to.

        Raises:
            InputError: if the run is finished.
            Stopped: if a signal has come; the state is saved then.
        """
        if self._whole:
            raise InputError(
                f"{self.folder} is of a run that is finished, and has no answer to {method} {_short(asked)}"
            )
        hold()
        if stop_asked() and method != "reset":  # before a reset there may be another training here than was saved
            self._stop(training)

    def after(self, training: Training, method: str, asked: list[Any], given: Any) -> None:
        """Writes down what was answered to a call.

        Raises:
            Stopped: if a signal has come; the state is saved then.
        """
        self._append({"verb": method, "asked": asked, "answer": plain(given), "counters": training.counters()})
        if stop_asked():
            self._stop(training)
        if method == "advance" and time.monotonic() - self._saved >= self.seconds:
            self.save(training)

    def finish(self) -> None:
        """Marks the run as finished: all that it answered stays, and its state is not needed any more.

        Raises:
            Stopped: if a signal has come.
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
        except Exception as error:  # of every part that has a state
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
        """The saved state, if it is of the present episode; an episode that has none begins again at its reset."""
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
    """The lines of a log; an incomplete last line, as a killed run may leave, is dropped."""
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
