"""Calls that a replay log may answer, and that all processes of a group execute."""

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
        """From now on the log answers the calls that it has, and records the others; None: no log."""
        self.replay_log = replay_log

    def join(self, group: Group) -> None:
        """From the next reset on, rank 0 broadcasts each call and all ranks execute it."""
        self.group = group

    def reduce_costs(self) -> None:  # noqa: B027 - there is nothing to add where one process counts
        """Adds the costs of all ranks to those of rank 0."""

    @abstractmethod
    def counters(self) -> dict[str, Any]:
        """The counters that are read between two calls."""

    @abstractmethod
    def load_counters(self, counters: dict[str, Any]) -> None:
        """Sets them."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors, numbers and names in dicts and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""


def replayable(
    name: str, *, logged: bool = True, collective: bool = True, each: bool = False
) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[T, P], R]]:
    """Decorates a method: it is answered from the replay log, or executed by all processes of the group.

    Args:
        name: of the method in logs and between processes; stays when the method is renamed.
        logged: whether the log has its results.
        collective: the first process broadcasts the call, and all execute it.
        each: it answers with a list of one answer a student, or with such a list for each step.
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

        call.told_as = name  # type: ignore[attr-defined]  # by which `follow` finds it
        return cast(Callable[Concatenate[T, P], R], call)

    return around
