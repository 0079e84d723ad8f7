"""Where a run's numbers go: TensorBoard and other trackers, all under the same names and steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

Plain: TypeAlias = bool | int | float | str
RESULTS = ("dev_score", "teacher_score", "reward", "flops_share", "seconds")  # fields of a result.json
RUN = "run"  # the axis of what there is once in a run
# A score, a loss, a return or a learned weight of 0 is a finding; any other number that is always 0 says that something
# did not happen.
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
    """Who keeps a run's numbers."""

    def options(self, values: Mapping[str, Plain]) -> None:
        """What the run was asked for."""
        ...

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step, which counts what the axis says: phases, episodes, decisions."""
        ...

    def close(self, *, finished: bool) -> None:
        """Nothing more will come; `finished` says whether the run came to its end."""
        ...


class Curves:
    """Hands a run's numbers to its trackers.

    A number that has always been 0 is held back, findings aside. Once it is another, its first and last 0 are handed
    over ahead of it, so that the curve begins where it began; where that never happens, there is no curve.

    Args:
        trackers: who keeps them; none is fine.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = tuple(trackers)
        self._zeros: dict[str, tuple[int, int] | None] = {}  # first and last step of what is held back; None once shown
        self._finished = False

    def options(self, values: Mapping[str, Plain]) -> None:
        """What the run was asked for, by which trackers tell runs apart."""
        for tracker in self._trackers:
            tracker.options(values)

    def write(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step.

        Args:
            axis: what the step counts: phase, episode, decision, generation, round or run.
            step: from 0 or 1 on.
            values: by their tags. What trackers do not all take in a name becomes _, as the @ of logits@2.
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
        """What the run came to, which is finished: `RESULTS`, those of them that there are, as `result/NAME`."""
        numbers = {f"result/{name}": values.get(name) for name in RESULTS}
        self.write(RUN, 0, {tag: value for tag, value in numbers.items() if isinstance(value, int | float)})
        self._finished = True

    def close(self) -> None:
        """Nothing more will come."""
        for tracker in self._trackers:
            tracker.close(finished=self._finished)
        self._trackers = ()

    def _log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(axis, step, values)
