"""`ackd cache`: a teacher's answers, kept ahead of the runs that will ask for them."""

from __future__ import annotations

from dataclasses import dataclass

from ackd.cli.said import few
from ackd.experiments.options import FillConfig


@dataclass(frozen=True, kw_only=True)
class FillCache(FillConfig):
    """Ask a teacher about a task's training data and keep the answers, for every later run with --cache."""

    def about(self) -> str:
        """What it is about to do."""
        return f"keep what {few(self.teacher)} answers to {self.task}"

    def run(self) -> None:
        """Fills the cache; stopped and started again, it goes on."""
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
