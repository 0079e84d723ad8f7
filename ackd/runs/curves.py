"""Writes a run's metrics to TensorBoard and other trackers, with the same names and steps for all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

Plain: TypeAlias = bool | int | float | str
RESULTS = ("dev_score", "teacher_score", "reward", "flops_share", "seconds")  # fields of a result.json
RUN = "run"  # the axis of values that are written once per run
# A score, loss, return or learned weight of 0 is a result. Any other value that is always 0 belongs to a feature that
# the run does not use.
FINDINGS = (
    "episode/return",
    "episode/dev/",
    "episode/reward_split/",
    "phase/reward_split/",
    "phase/loss/",
    "result/",
    "train/schedule/",
)


class Tracker(Protocol):
    """A destination of a run's metrics."""

    def options(self, values: Mapping[str, Plain]) -> None:
        """Stores the run's options."""
        ...

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Writes values at a step; the axis names the unit of the step: phase, episode, decision, ..."""
        ...

    def close(self, *, finished: bool) -> None:
        """Closes the tracker; `finished`: whether the run is complete."""
        ...


class Curves:
    """Writes a run's metrics to its trackers.

    A metric that has always been 0 is not written, except for `FINDINGS`. At its first other value, its first and last
    0 are written first, so that the curve starts at the right step. A metric that is always 0 has no curve.

    Args:
        trackers: the trackers; may be empty.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = tuple(trackers)
        self._zeros: dict[str, tuple[int, int] | None] = {}  # first and last step of unwritten zeros; None once written
        self._finished = False

    def options(self, values: Mapping[str, Plain]) -> None:
        """Writes the run's options; trackers use them to compare runs."""
        for tracker in self._trackers:
            tracker.options(values)

    def write(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Writes values at a step.

        Args:
            axis: the unit of the step: phase, episode, decision, generation, round or run.
            step: counted from 0 or 1.
            values: by tag. Characters that some tracker does not accept become _, e.g. the @ of logits@2.
        """
        shown: dict[str, float] = {}
        late: dict[int, dict[str, float]] = {}
        for given, value in values.items():
            tag, number = re.sub(r"[^\w./-]", "_", given, flags=re.ASCII), float(value)
            held = self._zeros.get(tag, (step, step))
            if held is not None and number == 0 and not tag.startswith(FINDINGS):
                self._zeros[tag] = held[0], step
                continue
            if held is not None and tag in self._zeros:
                for place in dict.fromkeys(held):
                    late.setdefault(place, {})[tag] = 0.0
            self._zeros[tag] = None
            shown[tag] = number
        for place, zeros in sorted(late.items()):
            self._log(axis, place, zeros)
        if shown:
            self._log(axis, step, shown)

    def result(self, values: Mapping[str, object]) -> None:
        """Writes the available `RESULTS` of a complete run as `result/NAME`, and marks the run as finished."""
        numbers = {f"result/{name}": values.get(name) for name in RESULTS}
        self.write(RUN, 0, {tag: value for tag, value in numbers.items() if isinstance(value, int | float)})
        self._finished = True

    def close(self) -> None:
        """Closes the trackers."""
        for tracker in self._trackers:
            tracker.close(finished=self._finished)
        self._trackers = ()

    def _log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(axis, step, values)
