"""The parts of a published method, and the facts that are known about it."""

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
    """Data and models from which a method can make further teachers."""

    train: Split
    classes: int  # 1 for regression
    make_student: StudentFactory
    device: torch.device
    images: Tensor | None = None  # [N, 1, side, side] in [0, 1], training data of image tasks
    costs: CostTracker = field(default_factory=CostTracker)  # costs before the training


Revise: TypeAlias = Callable[[Sequence[Teacher], Material], Sequence[Teacher]]
Weigh: TypeAlias = Callable[[Sequence[Teacher], Material], Weighting]


@dataclass(frozen=True)
class Preset:
    """A method: its losses, their weights over the training, the examples, and the teachers.

    Args:
        knowledge: the losses.
        stages: the weights of the losses in each stage.
        weighting: selects the examples of each loss and their weights; all examples with weight 1 if None.
        example_filter: selects the part of each batch that the student learns from; the whole batch if None.
        revise: wraps, replaces or adds teachers, if the method has its own.
        weigh: makes a weighting from the named teachers and the training data, once for all students.
        recipe: published values of fields of `ackd.training.recipe.Recipe`, by name.
        gives_way: the losses are only the usual ones, and those of another method replace them.
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
        make: makes the preset from the sizes of student and teachers; its keywords are the method's options.
    """

    make: Callable[..., Preset]

    @property
    def defaults(self) -> dict[str, Any]:
        """The options by name, with their defaults."""
        parameters = inspect.signature(self.make).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def methods(makes: Mapping[str, Callable[..., Preset]]) -> tuple[Method, ...]:
    """Makes methods from their functions and from the published facts."""
    return tuple(Method(**vars(PUBLISHED[name]), make=make) for name, make in makes.items())


def of_each(teachers: int, make: Callable[[], Knowledge]) -> list[Knowledge]:
    """A loss for each teacher, named as usual: `logits`, or `logits@1`, ... for several teachers."""
    made = []
    for place in range(teachers):
        made.append(make())
        made[-1].teacher = place
        made[-1].name += f"@{place + 1}" if teachers > 1 else ""
    return made


def softened(teachers: int, alpha: float, tau: float) -> tuple[list[Knowledge], list[Stage]]:
    """Losses and stage of (1 - alpha) CE + alpha tau^2 1/M sum_m KL(p_m || p_S), batchmean.

    Raises:
        InputError: if alpha is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}: it is the teachers' share of the loss, from 0 to 1")
    losses = of_each(teachers, lambda: Logits(temperature=tau))
    selection = Selection({one.name: alpha / teachers for one in losses}, labels=1 - alpha)
    return losses, [Stage(1.0, selection)]


def classified(teachers: Sequence[Teacher], material: Material) -> Sequence[Teacher]:
    """Returns the teachers unchanged if each example has one label.

    Raises:
        InputError: for a language model's data.
    """
    if material.train.language:
        raise InputError(
            "this preset puts a label in the place of an answer, and a text has none: give a classification task"
        )
    return teachers
