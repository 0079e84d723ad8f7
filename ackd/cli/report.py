"""`ackd report`: pictures of a run, and one page that holds them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw what a run of train, distill, evaluate, tune, federate, mutual or pretrain did: pictures, and one HTML page
    that holds them all.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    output: str | None = None
    """Folder for report.html and report/; the run's own if not given. An earlier report is replaced."""

    def run(self) -> None:
        """Writes the pictures and the page."""
        from ackd.reporting.report import report

        reported = report(self.folder, output=self.output)
        print(*reported.pictures, reported.page, sep="\n")
        if reported.note.startswith("This run is unfinished"):
            print(reported.note)
