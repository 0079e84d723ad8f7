"""The folder that a run leaves."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import logging
import os
import reprlib
import shutil
import socket
import sys
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ackd.errors import InputError
from ackd.files.schema import Object, read
from ackd.files.writing import write_whole
from ackd.files.yaml_file import yaml_text

logger = logging.getLogger("ackd")

CONFIG, REPEAT, RESULT, LOCK = "config.json", "config.yaml", "result.json", ".lock"
FREE = {"output", "overwrite", "resume", "quiet", "report_to"}  # settings that change nothing of what comes of a run
OWN = ("output", "overwrite", "resume", "quiet", "ray_address")  # settings that do not belong to what is repeated
ANEW = "start the run anew with --overwrite"


@dataclass(frozen=True)
class Config:
    """The content of `config.json`: what was run, with what settings, on what."""

    command: str
    settings: Object = field(default_factory=dict)
    versions: Object = field(default_factory=dict)


class RunFolder:
    """A folder that holds one run: checked when made, written only once `begin` is called.

    From then on, and for as long as this object lives, no other process can begin there.

    Args:
        path: where.
        overwrite: replace a run that is already there.
        inputs: what the run reads, names that are no paths included; none of it may lie in what is replaced.
        resume: go on with the run that is there, if there is one; None where a command cannot.

    Raises:
        InputError: if there is something already, or the place cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        inputs: Iterable[str | None] = (),
        resume: bool | None = None,
    ) -> None:
        self.path = Path(path)
        self.command, self.settings = "", dict[str, Any]()  # of the run, once it begins
        self._replace = self._locked = False
        self._found = self._state()
        self.resumed = bool(resume) and CONFIG in self._found
        if overwrite and resume:
            raise InputError("--resume goes on with a run and --overwrite replaces it: choose one")
        # a run that was killed at its very beginning may have left its lock and the half of its config
        if self.path.is_dir() and any(
            not there.name.startswith((LOCK, f".{CONFIG}.")) for there in self.path.iterdir()
        ):
            if CONFIG not in self._found:
                raise InputError(f"the output folder {path} holds other files: choose a new or empty folder")
            if not (overwrite or resume):
                ways = "--overwrite" if resume is None else "--resume or --overwrite"
                raise InputError(f"the output folder {path} already holds a run: choose another, or add {ways}")
            for name in inputs if overwrite else ():
                if name is not None and Path(name).exists() and self._holds(Path(name)):
                    raise InputError(f"the output folder {path} holds {name}, which is read: choose another folder")
            self._replace = overwrite
        elif self.path.exists() and not self.path.is_dir():
            raise InputError(f"the output {path} is a file: choose a folder")
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            raise InputError(f"the output folder {path} cannot be written: {existing} is read-only")

    def _holds(self, path: Path) -> bool:
        return self.path.resolve() in (path.resolve(), *path.resolve().parents)

    def _state(self) -> set[str]:
        """How far a run has come here."""
        return {name for name in (CONFIG, RESULT) if (self.path / name).is_file()}

    def recorded(self, name: str) -> Any:
        """A setting of the run that is resumed; None if there is none.

        Raises:
            InputError: if its config is damaged.
        """
        return read(self.path / CONFIG, Config, ANEW, extra="ignore").settings.get(name) if self.resumed else None

    def finished(self, command: str, settings: dict[str, Any], *, growing: Collection[str] = ()) -> bool:
        """Whether the run that is resumed, which is this one, had come to its end; arguments as of `begin`.

        Raises:
            InputError: if it is another run, or its result is damaged.
        """
        if not (self.resumed and (self.path / RESULT).is_file()):
            return False
        config = Config(command, _plain(settings))  # nothing goes on with other versions
        self._compare(config, {*FREE, *growing})
        read(self.path / RESULT, Object, ANEW)  # a finished run keeps no state that its student could be written from
        return True

    def begin(
        self, command: str, settings: dict[str, Any], *, growing: Collection[str] = (), by_names: bool = True
    ) -> None:
        """Makes the folder and writes `config.json`; a replaced run goes now, when all input has been checked.

        What repeats the run, `ackd COMMAND --config config.yaml`, is written as well.

        Args:
            command: as on the command line.
            settings: all of it that matters.
            growing: settings that may have changed since, where a run is resumed.
            by_names: whether the settings name all that the run reads; one that was handed objects is not repeated so.

        Raises:
            InputError: if the run that is to be resumed is another one, or another process is at work here.
        """
        self.command, self.settings = command, _plain(settings)
        config = Config(command, self.settings, _versions())
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._locked:
            self._lock()
        if self.resumed:
            self._compare(config, {*FREE, *growing})
        if self._replace:
            self._empty()
        self.write_json(CONFIG, vars(config))
        if by_names:
            again = {name: value for name, value in self.settings.items() if name not in OWN}
            self.write_text(REPEAT, f"# ackd {command} --config THIS_FILE --output FOLDER\n{yaml_text(again)}")

    def _lock(self) -> None:
        """Keeps other processes out; when this one dies, however it does, the kernel lets them in."""
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            raise InputError(
                f"a run in {self.path} is under way, as process {holder}: wait until it ends, or choose another folder"
            ) from error
        except OSError:
            logger.warning("the file system of %s has no locks: let one run at a time go there", self.path)
        if self._state() != self._found:
            raise InputError(f"another run went to {self.path} until just now: look what is there, and start again")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._locked = True

    def _empty(self) -> None:
        """Removes what is replaced, the config last: a kill in between leaves a run that can be replaced."""
        for there in sorted(self.path.iterdir(), key=lambda path: path.name == CONFIG):
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(there)
            elif there.name != LOCK:
                there.unlink()

    def _compare(self, config: Config, ignored: Collection[str]) -> None:
        before = read(self.path / CONFIG, Config, ANEW, extra="ignore")
        if before.command != config.command:
            raise InputError(f"the run in {self.path} is of ackd {before.command}: choose another folder")
        for name, value in config.settings.items():
            if name not in ignored and before.settings.get(name) != value:
                raise InputError(
                    f"the run in {self.path} has {name} {reprlib.repr(before.settings.get(name))}, and now it is "
                    f"{value!r}: resume it with the same options, or choose another folder"
                )
        for name, value in config.versions.items():
            if before.versions.get(name) != value:
                logger.warning(
                    "the run in %s began with %s %s and goes on with %s: it may not end as an undisturbed run would",
                    self.path,
                    name,
                    reprlib.repr(before.versions.get(name)),
                    value,
                )

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2, default=str) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Writes a text file, whole or not at all."""
        write_whole(self.path / name, content.encode())

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes these columns of rows as CSV, whole or not at all."""
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, file.getvalue())


def settings_of(path: Path, command: str) -> dict[str, Any]:
    """The settings that a run began with; none if there is no run of this command.

    Args:
        path: the run's folder.
        command: as on the command line.

    Raises:
        InputError: if they cannot be read.
    """
    if not (path / CONFIG).is_file():
        return {}
    begun = read(path / CONFIG, Config, ANEW, extra="ignore")
    return dict(begun.settings) if begun.command == command else {}


def group_folder(folder: Path, task: str, policy: str) -> Path:
    """Where an evaluation in `folder` keeps the curves, decisions and journals of a task and policy."""
    return folder / task / policy.strip("/.").replace("/", "_").replace(":", "_")


def _versions() -> dict[str, Any]:
    """What a run's numbers depend on besides its settings."""
    import torch  # here alone, so that a folder can be looked at without

    return {"python": sys.version.split()[0], **_packages(), "threads": torch.get_num_threads()}


@cache
def _packages() -> dict[str, str]:
    return {
        name: version(name) for name in ("ackd", "torch", "transformers", "gymnasium", "stable-baselines3", "datasets")
    }


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain
