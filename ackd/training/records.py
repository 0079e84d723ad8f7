"""JSON form of a training's calls and results, as stored in files.

If an attribute is renamed, an alias keeps its name in files: `Annotated[float, pydantic.Field(alias="before")]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from ackd.files.schema import adapter
from ackd.mdp.episode import Facts
from ackd.tasks import Split
from ackd.types import EvalResult, Selection, StepMetrics

A = TypeVar("A")
TYPED: Any = TypedDict
KINDS: Mapping[str, Any] = {"report": StepMetrics[float], "standing": EvalResult, "facts": Facts}


TOLD = {kind: TYPED(kind, {kind: made}) for kind, made in KINDS.items()}
# result types by call; other calls return None
ANSWERS: Mapping[str, Any] = {
    "advance": TOLD["report"],
    "measure": TOLD["standing"],
    "measure_teacher": TOLD["standing"],
    "inspect": TOLD["facts"] | None,  # None without a teacher
    "represent": tuple[list[float], list[float]],
}


@dataclass(frozen=True)
class Line(Generic[A]):
    """A line of a replay log: a call, its result, and the counters after it."""

    verb: str
    asked: list[Any]
    answer: A
    counters: dict[str, Any]


@cache
def line_of(method: str, students: int | None = None, *, by_steps: bool = False) -> Any:
    """The `Line` type of a call.

    Args:
        method: the name of the call.
        students: length of the result's list, one item per student; None if the result is no list.
        by_steps: True if the result is a list of such lists, one per step.
    """
    line: Any = Line
    answer: Any = ANSWERS.get(method)
    if answer is None or students is None:
        return line[answer]
    each: Any = Annotated[list[answer], Field(min_length=students, max_length=students)]
    return line[list[each] if by_steps else each]


def plain(value: Any) -> Any:
    """Converts a value to its JSON form."""
    if isinstance(value, Selection):
        return {"weights": dict(value.weights), "labels": value.labels}
    if isinstance(value, Split):
        return value.fingerprint
    for kind, made in KINDS.items():
        if isinstance(value, getattr(made, "__origin__", made)):
            return {kind: adapter(made).dump_python(value, by_alias=True)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def answer(given: Any) -> Any:
    """Converts the result in a parsed line back: the inverse of `plain`."""
    if isinstance(given, list):
        return [answer(one) for one in given]
    return next(iter(given.values())) if isinstance(given, dict) else given
