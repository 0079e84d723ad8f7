"""Checks of a user's own knowledge types, before a training uses them."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ackd.errors import InputError
from ackd.types import KNOWLEDGE_FAMILIES, LABELS, Batch, Knowledge, ModelDims, OutputRequest, Outputs

NewKnowledge: TypeAlias = Callable[[ModelDims, ModelDims], Knowledge]  # from the sizes of student and teacher
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # valid in rules and columns; + : , and @ have special meanings


def listed(types: Any) -> Sequence[str | Knowledge | NewKnowledge]:
    """Checks that the knowledge types are given as a list.

    Raises:
        InputError: if they are not a list.
    """
    if isinstance(types, str) or not isinstance(types, Sequence):
        raise InputError(f"knowledge is {types!r}: give a list of types")
    return types


def name_of(given: str | Knowledge | NewKnowledge) -> str:
    """The name of a knowledge type, before it is made.

    Raises:
        InputError: if it has no name yet, such as a function.
    """
    name = given if isinstance(given, str) else getattr(given, "name", None)
    if not isinstance(name, str):
        raise InputError(f"nobody knows yet what {given!r} will be called: give a class that has a `name`")
    return name


def own(given: Knowledge | NewKnowledge, student: ModelDims, teacher: ModelDims) -> Knowledge:
    """A user's own knowledge type, made separately for each student.

    Args:
        given: the type, which is copied, or a function that makes it from the sizes of student and teacher.
        student: the student's sizes.
        teacher: the teacher's sizes.

    Raises:
        InputError: if it is not a complete knowledge type.
    """
    made = copy.deepcopy(given) if isinstance(given, Knowledge) else _made(given, student, teacher)
    if not isinstance(made, Knowledge):
        raise InputError(
            f"{given!r} makes a {type(made).__name__}: give an ackd.Knowledge, or a function that makes one"
        )
    kind, name = type(made).__name__, getattr(made, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == LABELS:
        raise InputError(
            f"the name of the knowledge type {kind} is {name!r}: give it a `name` of letters, digits, '.', '_' and "
            f"'-', other than {LABELS}"
        )
    family = getattr(made, "family", None)
    if family not in KNOWLEDGE_FAMILIES:
        raise InputError(f"the family of {name!r} is {family!r}: give one of {', '.join(KNOWLEDGE_FAMILIES)}")
    for whose in ("student_needs", "teacher_needs"):
        if not isinstance(getattr(made, whose, None), OutputRequest):
            raise InputError(
                f"{name!r} does not say what it needs: set `{whose}` in its __init__, as in "
                "ackd.OutputRequest(logits=True)"
            )
    return made


def _made(given: Any, student: ModelDims, teacher: ModelDims) -> Any:
    """The result of a class or function for the sizes of student and teacher."""
    if not callable(given):
        raise InputError(
            f"{given!r} is a {type(given).__name__}: give the name of a knowledge type, or an ackd.Knowledge"
        )
    if missing := sorted(getattr(given, "__abstractmethods__", ())):
        raise InputError(f"the knowledge type {given.__name__} has no {' and no '.join(missing)}: define it")
    try:
        inspect.signature(given).bind(student, teacher)
    except TypeError as error:
        raise InputError(
            f"{getattr(given, '__name__', given)!r} cannot be made from two shapes ({error}): let it take the "
            "student's and the teacher's"
        ) from error
    return given(student, teacher)


def check_losses(one: Knowledge, student: Outputs, teacher: Outputs, batch: Batch) -> None:
    """Tries a knowledge type on the models' outputs for a batch.

    Raises:
        InputError: if it does not return one loss for each example.
    """
    with torch.no_grad():
        losses = one(student, teacher, batch)
    size = batch.shape[0]
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        shape = f"a tensor {list(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
        raise InputError(
            f"{one.name!r} makes {shape} of {size} examples: let its forward return one loss for each, [{size}]"
        )
