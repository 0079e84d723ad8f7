"""The calls that drive a training: a journal may answer them, and other processes may execute them, too."""

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
    """What a journal is kept of, and what the processes of a group hold, each its own of the same."""

    replay_log: ReplayLog | None = None
    group: Group = ALONE
    size: int = 1  # students

    def replay(self, replay_log: ReplayLog | None) -> None:
        """From now on a journal, if any, answers what it knows, and writes down the rest."""
        self.replay_log = replay_log

    def join(self, group: Group) -> None:
        """From the next reset on, processes train together: each call of the first is executed by all of them."""
        self.group = group

    def reduce_costs(self) -> None:  # noqa: B027 - there is nothing to add where one process counts
        """Adds what the other processes counted to the counts of the first one."""

    @abstractmethod
    def counters(self) -> dict[str, Any]:
        """The plain numbers that are read between two calls."""

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
    """A method of a training that is replayed from its journal, and executed by all processes of its group.

    Args:
        name: what journals and other processes call it, whatever the method is called.
        logged: a log has its answers.
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
