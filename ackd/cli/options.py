"""Options that several commands share."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.runs.stopping import whole

EVERY = 60.0  # seconds between two lines of progress
logger = logging.getLogger("ackd")

if TYPE_CHECKING:
    from tqdm import tqdm

    from ackd.runs.folder import RunFolder
    from ackd.training.journal import Journal


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where a run goes."""

    output: str
    """Folder for the run; it must not hold one yet."""
    overwrite: bool = False
    """Replace the run in --output."""


@dataclass(frozen=True, kw_only=True)
class ResumableOptions(OutputOptions):
    """A run that can be taken up again."""

    resume: bool = False
    """Go on with the run in --output, where it was killed; begin it if there is none."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Raises:
            InputError: if it cannot be used.
        """
        from ackd.distributed.rendezvous import restarted
        from ackd.runs.folder import RunFolder

        again = restarted()  # after a loss, and so in the middle of the run
        return RunFolder(
            self.output, overwrite=self.overwrite and not again, inputs=inputs, resume=self.resume or again
        )

    def finished(self, folder: RunFolder, command: str, *, growing: Collection[str] = (), **changed: Any) -> bool:
        """Whether there is nothing left to do in the run's folder, which is said then.

        Args:
            folder: the run's.
            command: as its `begin` is told.
            growing: likewise.
            **changed: settings that `begin` is told otherwise than the options have them.

        Raises:
            InputError: if the folder holds another run, or its result is damaged.
        """
        over = folder.finished(command, asdict(self) | changed, growing=growing)
        if over:
            print(f"the run in {self.output} is finished: nothing is left to resume")
        return over


@dataclass(frozen=True, kw_only=True)
class RunOptions(ResumableOptions):
    """A training, which leaves checkpoints."""

    checkpoint_seconds: float = 60.0
    """Training between two checkpoints: what is lost at most, when the run is killed."""

    def run_folder(self, inputs: Iterable[str | None]) -> RunFolder:
        """The run's folder, which nothing is written to yet.

        Raises:
            InputError: if it cannot be used, or the time between checkpoints is below 0.
        """
        from ackd.errors import InputError

        if not self.checkpoint_seconds >= 0:
            raise InputError(f"--checkpoint-seconds is {self.checkpoint_seconds}: give 0 or more")
        return super().run_folder(inputs)

    def journal(self, folder: Path) -> Journal:
        """The journal in a folder, from which a run goes on."""
        from ackd.training.journal import Journal

        return Journal(folder, seconds=self.checkpoint_seconds)


def move(bar: tqdm[Any], done: int) -> None:
    """Moves a bar to `done` steps."""
    bar.update(done - bar.n)


@contextmanager
def progress(steps: int, what: str, unit: str = "step") -> Iterator[tqdm[Any]]:
    """A bar over optimizer steps with rate and time left; a plain line now and then where it goes to no terminal."""
    from tqdm import tqdm

    look: dict[str, Any] = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        said = f"{{desc}}: {{n_fmt}} of {{total_fmt}} {unit}s, {{remaining}} left"
        look = {
            "file": _Lines(),
            "bar_format": said,
            "delay": EVERY,
            "mininterval": EVERY,
            "miniters": 1,
            "leave": False,
        }
    with whole():  # one that is half made complains when it is thrown away
        bar = tqdm(total=steps, desc=what, unit=unit, **look)
    with bar:
        yield bar


class _Lines(io.StringIO):
    """Where a bar goes that is to be lines: the log."""

    def write(self, text: str) -> int:
        """Notes it, without what moves a cursor."""
        if line := text.strip():
            logger.info("%s", line)
        return len(text)
