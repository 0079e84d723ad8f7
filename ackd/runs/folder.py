"""The output folder of a run."""

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
FREE = {"output", "overwrite", "resume", "quiet", "report_to"}  # settings without effect on a run's results
OWN = ("output", "overwrite", "resume", "quiet", "ray_address")  # settings that config.yaml leaves out
ANEW = "start the run anew with --overwrite"


@dataclass(frozen=True)
class Config:
    """The content of `config.json`: command, settings and package versions."""

    command: str
    settings: Object = field(default_factory=dict)
    versions: Object = field(default_factory=dict)


class RunFolder:
    """The folder of one run: checked at construction, written to from `begin` on.

    From `begin` on, no other process can begin in the folder while this object exists.

    Args:
        path: the folder.
        overwrite: whether to replace an existing run.
        inputs: paths (and other names) that the run reads; none of them may be inside a replaced folder.
        resume: whether to continue an existing run; None if the command cannot resume.

    Raises:
        InputError: if the folder is in use, or cannot be written.
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
        # a run that was killed at its start may have left its lock and an incomplete config
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
        """The existing ones of `config.json` (begun) and `result.json` (finished)."""
        return {name for name in (CONFIG, RESULT) if (self.path / name).is_file()}

    def recorded(self, name: str) -> Any:
        """A setting of the resumed run; None if no run is resumed or it has no such setting.

        Raises:
            InputError: if the run's config is damaged.
        """
        return read(self.path / CONFIG, Config, ANEW, extra="ignore").settings.get(name) if self.resumed else None

    def finished(self, command: str, settings: dict[str, Any], *, growing: Collection[str] = ()) -> bool:
        """Whether the resumed run is already finished; the arguments are those of `begin`.

        Raises:
            InputError: if the folder contains another run, or its result is damaged.
        """
        if not (self.resumed and (self.path / RESULT).is_file()):
            return False
        config = Config(command, _plain(settings))  # versions do not matter, because nothing is trained any more
        self._compare(config, {*FREE, *growing})
        read(self.path / RESULT, Object, ANEW)  # a finished run has no checkpoint to rewrite its results from
        return True

    def begin(
        self, command: str, settings: dict[str, Any], *, growing: Collection[str] = (), by_names: bool = True
    ) -> None:
        """Creates the folder and writes `config.json`; a replaced run is deleted now, after all input is checked.

        Also writes `config.yaml`, which repeats the run: `ackd COMMAND --config config.yaml`.

        Args:
            command: as on the command line.
            settings: the run's settings.
            growing: names of settings that may differ in a resumed run.
            by_names: whether the settings name all inputs; a run with inputs given as objects gets no `config.yaml`.

        Raises:
            InputError: if the folder contains another run than the resumed one, or another process uses it.
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
        """Locks the folder against other processes; the kernel releases the lock when this process ends."""
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
        """Deletes the replaced run, the config last: if killed in between, the folder can still be replaced."""
        for there in sorted(self.path.iterdir(), key=lambda path: path.name == CONFIG):
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(there)
            elif there.name != LOCK:
                there.unlink()

    def _compare(self, config: Config, ignored: Collection[str]) -> None:
        before = read(self.path / CONFIG, Config, ANEW, extra="ignore")
        if before.command != config.command:
            raise InputError(f"the run in {self.path} is of ackd {before.command}: choose another folder")
        for name, value in config.settings.items():  # runs of earlier versions have fewer settings
            if name not in ignored and before.settings.get(name, value) != value:
                raise InputError(
                    f"the run in {self.path} has {name} {reprlib.repr(before.settings[name])}, and now it is "
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
        """Writes a JSON file atomically."""
        self.write_text(name, json.dumps(content, indent=2, default=str) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Writes a text file atomically."""
        write_whole(self.path / name, content.encode())

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the given columns of rows as CSV, atomically."""
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, file.getvalue())


def settings_of(path: Path, command: str) -> dict[str, Any]:
    """The saved settings of a run; empty if the folder contains no run of this command.

    Args:
        path: the run's folder.
        command: as on the command line.

    Raises:
        InputError: if the settings cannot be read.
    """
    if not (path / CONFIG).is_file():
        return {}
    begun = read(path / CONFIG, Config, ANEW, extra="ignore")
    return dict(begun.settings) if begun.command == command else {}


def group_folder(folder: Path, task: str, policy: str) -> Path:
    """The subfolder of an evaluation for the curves, decisions and replay logs of a task and policy."""
    return folder / task / policy.strip("/.").replace("/", "_").replace(":", "_")


def _versions() -> dict[str, Any]:
    """Package versions and number of threads: the results depend on them too."""
    import torch  # imported here, so that reading a folder does not need torch

    return {"python": sys.version.split()[0], **_packages(), "threads": torch.get_num_threads()}


@cache
def _packages() -> dict[str, str]:
    return {
        name: version(name) for name in ("ackd", "torch", "transformers", "gymnasium", "stable-baselines3", "datasets")
    }


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings after a round trip through JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain
