"""A bar on a terminal, and lines of a log where there is none."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ackd.runs.stopping import defer_interrupts

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 60.0  # seconds between two lines of progress
logger = logging.getLogger("ackd")


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
    with defer_interrupts():  # one that is half made complains when it is thrown away
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
