"""Stages of a training, each with its own selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ackd.errors import InputError
from ackd.types import Selection


@dataclass(frozen=True)
class Stage:
    """A part of a training with one selection."""

    share: float  # of the budget
    selection: Selection


def stage_at(stages: Sequence[Stage], progress: float) -> int:
    """The index of the stage after `progress` (0 to 1) of the budget."""
    ends = list(accumulate(stage.share for stage in stages))[:-1]
    return sum(progress > end - 1e-6 for end in ends)  # tolerance, because progress may be float32


def check_stages(stages: Sequence[Stage], steps: int, interval: int) -> None:
    """Checks that decisions are frequent enough for every stage.

    Args:
        stages: the stages; empty if there are none.
        steps: the budget in optimizer steps.
        interval: optimizer steps between two decisions.

    Raises:
        InputError: if a stage would be skipped.
    """
    turns = {stage_at(stages, done / steps) for done in range(0, steps, max(interval, 1))}
    if len(turns) < len(stages):
        raise InputError(
            f"{steps} steps with a decision every {interval} leave out a stage of the {len(stages)} there are: take "
            "more steps (--steps), or decide more often (--decision-interval)"
        )
