"""What a published method is made of, and what is known of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ackd.config.methods import PUBLISHED, Published
from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import Logits
from ackd.models import StudentFactory
from ackd.stages import Stage
from ackd.tasks import Split
from ackd.types import Knowledge, Selection, Teacher
from ackd.weighting.scores import TopFraction
from ackd.weighting.weighting import Weighting


@dataclass(frozen=True)
class Material:
    """What a method can make teachers of, besides those that were named."""

    train: Split
    classes: int  # 1 for regression
    make_student: StudentFactory
    device: torch.device
    images: Tensor | None = None  # [N, 1, side, side] in [0, 1], of the training data, where it is of images
    costs: CostTracker = field(default_factory=CostTracker)  # what was spent before the training


Revise: TypeAlias = Callable[[Sequence[Teacher], Material], Sequence[Teacher]]
Weigh: TypeAlias = Callable[[Sequence[Teacher], Material], Weighting]


@dataclass(frozen=True)
class Preset:
    """A method: its losses, what it does with them from the first step to the last, on which examples, taught by whom.

    Args:
        knowledge: the losses.
        stages: their weights, one stage after the other.
        weighting: which examples each loss is taken on, and how much each counts; all of them, each 1, if None.
        example_filter: the part of each batch that the student learns from at all; all of it if None.
        revise: puts what the method has of its own around or in the place of the teachers, if anything.
        weigh: makes, once for all students, a weighting from the teachers as they were named and the training data.
        recipe: what the method was published with of `ackd.training.recipe.Recipe`, by the names of its fields.
        gives_way: the losses are only what the method is usually run with, and give way to those of another.
    """

    knowledge: Sequence[Knowledge] = ()
    stages: Sequence[Stage] = ()
    weighting: Weighting | None = None
    example_filter: TopFraction | None = None
    revise: Revise | None = None
    weigh: Weigh | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    gives_way: bool = False


@dataclass(frozen=True, kw_only=True)
class Method(Published):
    """A published method that is a preset.

    Args:
        make: the preset for a student's and its teachers' sizes; its keywords are the method's options.
    """

    make: Callable[..., Preset]

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options by name, and what they are if not given."""
        parameters = inspect.signature(self.make).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def methods(makes: Mapping[str, Callable[..., Preset]]) -> tuple[Method, ...]:
    """Methods by what makes them, with what is known of them."""
    return tuple(Method(**vars(PUBLISHED[name]), make=make) for name, make in makes.items())


def of_each(teachers: int, make: Callable[[], Knowledge]) -> list[Knowledge]:
    """A loss for each teacher, named as everywhere: `logits`, or of several `logits@1` and so on."""
    made = []
    for place in range(teachers):
        made.append(make())
        made[-1].teacher = place
        made[-1].name += f"@{place + 1}" if teachers > 1 else ""
    return made


def softened(teachers: int, alpha: float, tau: float) -> tuple[list[Knowledge], list[Stage]]:
    """(1 - alpha) CE + alpha tau^2 1/M sum_m KL(p_m || p_S), batchmean.

    Raises:
        InputError: if alpha is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}: it is the teachers' share of the loss, from 0 to 1")
    losses = of_each(teachers, lambda: Logits(temperature=tau))
    selection = Selection({one.name: alpha / teachers for one in losses}, labels=1 - alpha)
    return losses, [Stage(1.0, selection)]


def classified(teachers: Sequence[Teacher], material: Material) -> Sequence[Teacher]:
    """The teachers as they are, where an example has one label.

    Raises:
        InputError: for a language model's data.
    """
    if material.train.language:
        raise InputError(
            "this preset puts a label in the place of an answer, and a text has none: give a classification task"
        )
    return teachers
