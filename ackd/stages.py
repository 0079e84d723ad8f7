"""Parts of a training, each with a selection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ackd.types import Selection


@dataclass(frozen=True)
class Stage:
    """A part of a training, and what is transferred in it."""

    share: float  # of the budget
    selection: Selection


def stage_at(stages: Sequence[Stage], progress: float) -> int:
    """Which stage has come when `progress`, from 0 to 1, of the budget is used."""
    ends = list(accumulate(stage.share for stage in stages))[:-1]
    return sum(progress > end - 1e-6 for end in ends)  # progress may come as float32
