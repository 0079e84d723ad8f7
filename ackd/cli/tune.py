"""`ackd tune`: finds the temperature and weight of plain distillation by grid search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ackd.cli.said import few, long, nothing_left
from ackd.experiments.student_options import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Tune(TuneConfig):
    """Find the temperature and weight of plain distillation by grid search.

    The students of each pair are scored on the reward split. Dev is read at the end, for the chosen pair, for the
    untuned pair (1, 0.5), and for the untrained student.
    """

    def about(self) -> str:
        """The work in a few words."""
        return (
            f"try {len(self.temperature)} temperatures with {len(self.kd_weight)} weights of {few(self.teacher)} on "
            f"{self.task}, for {long(self)} each"
        )

    def run(self) -> None:
        """Trains each cell of the grid, chooses the best pair, and saves its student under OUTPUT/student."""
        from ackd.experiments.trained import ending
        from ackd.experiments.tuning import Tuning

        tuning = Tuning(self)
        if tuning.finished:
            nothing_left(self.output)
            return
        found = tuning.search()
        print(tuning.table(found))
        trained, place = tuning.choose(found), tuning.folder.path / "student"
        print(_said(trained.result))
        print(ending(trained, place, self.text_columns))
        print(f"to distil so: {trained.result['command']}\nstudent: {place}")


def _said(result: Mapping[str, Any]) -> str:
    best, relative = result["best"], result["relative_gain"]
    lines = [
        f"{result['task']}: temperature {best['temperature']:g} and weight {best['kd_weight']:g}: {result['metric']} "
        f"{result['dev_score']:.2f} on dev, {result['gain']:+.2f} against the student before it learned"
    ]
    if result["untuned_dev_score"] is None:
        lines.append("untuned (1, 0.5) it diverged")
    else:
        share = "" if relative is None else f"; tuning raises the gain by {relative:.0%}"
        lines.append(f"untuned (1, 0.5): {result['untuned_dev_score']:.2f}, {result['untuned_gain']:+.2f}{share}")
    return "\n".join(lines)
