"""The folder that a run leaves."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ackd.errors import InputError

CONFIG = "config.json"


class RunFolder:
    """A folder that holds one run: checked when made, written only once `begin` is called.

    Args:
        path: where.
        overwrite: replace a run that is already there.
        inputs: what the run reads, names that are no paths included; none of it may lie in what is replaced.

    Raises:
        InputError: if there is something already, or the place cannot be written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | None] = ()) -> None:
        self.path = Path(path)
        self._replace = False
        if self.path.is_dir() and any(self.path.iterdir()):
            if not (self.path / CONFIG).is_file():
                raise InputError(f"the output folder {path} holds other files: choose a new or empty folder")
            if not overwrite:
                raise InputError(f"the output folder {path} already holds a run: choose another, or add --overwrite")
            for name in inputs:
                if name is not None and Path(name).exists() and self._holds(Path(name)):
                    raise InputError(f"the output folder {path} holds {name}, which is read: choose another folder")
            self._replace = True
        elif self.path.exists() and not self.path.is_dir():
            raise InputError(f"the output {path} is a file: choose a folder")
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            raise InputError(f"the output folder {path} cannot be written: {existing} is read-only")

    def _holds(self, path: Path) -> bool:
        return self.path.resolve() in (path.resolve(), *path.resolve().parents)

    def begin(self, command: str, settings: dict[str, Any]) -> None:
        """Makes the folder and writes `config.json`; a replaced run goes now, when all input has been checked."""
        if self._replace:
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        packages = ("torch", "transformers", "gymnasium", "stable-baselines3", "datasets")
        versions = {"python": sys.version.split()[0], **{name: version(name) for name in ("ackd", *packages)}}
        self.write_json(CONFIG, {"command": command, "settings": settings, "versions": versions})

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2, default=str) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Writes a text file, whole or not at all."""
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(temporary, self.path / name)
