"""`ackd report`: draws pictures of a run, and one HTML page with all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw pictures of a run of train, distill, evaluate, tune, federate, mutual or pretrain, and one HTML page with
    all of them.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN")]
    """The run's folder."""
    output: str | None = None
    """Folder for report.html and report/; the run's folder if not given. An earlier report is replaced."""

    def run(self) -> None:
        """Writes the pictures and the page."""
        from ackd.reporting.report import report

        reported = report(self.folder, output=self.output)
        print(*reported.pictures, reported.page, sep="\n")
        if reported.note.startswith("This run is unfinished"):
            print(reported.note)
