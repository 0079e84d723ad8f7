"""`ackd cache`: stores a teacher's outputs before the runs that need them."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few
from ackd.experiments.options import FillConfig


@dataclass(frozen=True, kw_only=True)
class FillCache(FillConfig):
    """Run a teacher on a task's training data and store its outputs, for every later run with --cache."""

    def about(self) -> str:
        """The work in a few words."""
        return f"keep what {few(self.teacher)} answers to {self.task}"

    def run(self) -> None:
        """Fills the cache; a second call continues after a stop."""
        if self.serves():
            return
        from ackd.experiments.filling import fill
        from ackd.teachers.cache.budget import readable

        for one in fill(self):
            print(
                f"{self.task}: {one.examples} examples, {one.asked} of them asked now in {one.seconds:.1f} s, "
                f"{readable(one.written)} written"
            )
            print(f"cache:   {one.folder}")
