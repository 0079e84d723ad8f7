"""Parts of a training, each with a selection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ackd.errors import InputError
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


def check_stages(stages: Sequence[Stage], steps: int, interval: int) -> None:
    """Refuses choices that come too seldom for every stage to have its turn.

    Args:
        stages: none if the selection is left open.
        steps: the budget in optimizer steps.
        interval: optimizer steps between two choices.

    Raises:
        InputError: if a stage is left out.
    """
    turns = {stage_at(stages, done / steps) for done in range(0, steps, max(interval, 1))}
    if len(turns) < len(stages):
        raise InputError(
            f"{steps} steps with a decision every {interval} leave out a stage of the {len(stages)} there are: take "
            "more steps (--steps), or decide more often (--decision-interval)"
        )
