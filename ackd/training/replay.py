"""Calls that a replay log can answer and that all processes of a group execute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from ackd.distributed.process_group import ALONE, Group, announce
from ackd.training.records import plain
from ackd.training.replay_log import ReplayLog

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound="Training")


class Training(ABC):
    """A training that can be replayed from a log and run in lockstep by several processes."""

    replay_log: ReplayLog | None = None
    group: Group = ALONE
    size: int = 1  # students

    def replay(self, replay_log: ReplayLog | None) -> None:
        """Sets the log: it answers the calls that it contains and records all others. None removes the log."""
        self.replay_log = replay_log

    def join(self, group: Group) -> None:
        """Joins a group: from the next reset on, rank 0 broadcasts each call and all ranks execute it."""
        self.group = group

    def reduce_costs(self) -> None:  # noqa: B027 - a training of one process has nothing to add
        """Adds the costs of all ranks to those of rank 0."""

    @abstractmethod
    def counters(self) -> dict[str, Any]:
        """The counters that callers read between two calls."""

    @abstractmethod
    def load_counters(self, counters: dict[str, Any]) -> None:
        """Restores the counters."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The complete state of the training: tensors, numbers and names in dicts and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""


def replayable(
    name: str, *, logged: bool = True, collective: bool = True, each: bool = False
) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[T, P], R]]:
    """Decorator: a call is answered from the replay log or executed by all processes of the group.

    Args:
        name: the method's name in logs and between processes; it stays if the method is renamed.
        logged: whether the log records the results.
        collective: whether rank 0 broadcasts the call and all ranks execute it.
        each: whether the result is a list with one item per student, or a list of such lists, one per step.
    """

    def around(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
        @wraps(method)
        def call(self: T, *args: P.args, **kwargs: P.kwargs) -> R:
            replay_log, together = self.replay_log if logged else None, collective and self.group.size > 1
            asked = [plain(value) for value in (*args, *kwargs.values())] if replay_log is not None else []
            if replay_log is not None and replay_log.replaying:
                return cast(R, replay_log.answer(self, name, asked, self.size if each else None))
            if replay_log is not None:
                replay_log.before(self, name, asked)
            if together:
                announce(self.group, name, args, kwargs)
            given = method(self, *args, **kwargs)
            if together:
                self.reduce_costs()
            if replay_log is not None:
                replay_log.after(self, name, asked, given)
            return given

        call.told_as = name  # type: ignore[attr-defined]  # `follow` looks the method up by this name
        return cast(Callable[Concatenate[T, P], R], call)

    return around
