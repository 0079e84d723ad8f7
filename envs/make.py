"""Builds the environments of the registered ids; keyword arguments are plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from typing import Any, ParamSpec

import torch

from ackd import models, tasks
from ackd.config import EpisodeConfig, checked, names_of, renamed
from ackd.envs.checks import check_render_mode
from ackd.envs.distillation import DistillationEnv
from ackd.knowledge import DEFAULT, build
from ackd.mdp.action_spaces import Choice, Stages
from ackd.mdp.rewards import Reward, reward_of
from ackd.numerics.streams import fork_rng
from ackd.stages import check_stages
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation

P = ParamSpec("P")


def _remembered(make: Callable[P, DistillationEnv]) -> Callable[P, DistillationEnv]:
    """Stores in each environment how it was made, so that it can be pickled."""

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> DistillationEnv:
        env = make(*args, **renamed(kwargs))  # earlier names are accepted too
        env.anew = partial(call, *args, **kwargs)
        return env

    return call


@_remembered
def distill(
    *,
    reward: str | Reward = "gap",
    choice: str | Choice = "subset",
    k_max: int = 8,
    levels: Sequence[float] | None = None,
    reward_every: int | None = 1,
    observe_cls: bool = False,
    render_mode: str | None = None,
    **setting: Any,
) -> DistillationEnv:
    """`ACKD/Distill-v0`: distillation on a real task.

    Args:
        reward: one of `ackd.mdp.rewards.REWARDS`, where gap is either-gap; or a `Reward`.
        choice: subset | levels | weights | type-subset | type-shares, or a `Choice`; a preset has its own, with
            one action for each of its stages.
        k_max: length of the action.
        levels: weights to choose from, for the choice levels.
        reward_every: decisions between measurements on the reward split; None measures nothing.
        observe_cls: also observe the first-token outputs of student and teacher.
        render_mode: must be None.
        **setting: arguments of `ackd.prepare` (task, teacher, data, student_layers, steps, ...), and the other fields
            of `ackd.config.EpisodeConfig`.

    Raises:
        InputError: if an argument is invalid.
    """
    from ackd.building.setting import prepare

    check_render_mode(render_mode)
    own = {name: setting.pop(name) for name in names_of(EpisodeConfig) if name in setting}
    episode = checked(EpisodeConfig, own)
    earned = reward_of(reward, episode.cost_weight)
    distillation = prepare(**setting)
    check_stages(distillation.stages, distillation.steps, episode.decision_interval)
    stages = [stage.selection for stage in distillation.stages]
    return DistillationEnv(
        distillation,
        decision_interval=episode.decision_interval,
        decisions=None if stages else episode.decisions,
        reward=earned,
        choice=Stages(stages) if stages else choice,
        k_max=k_max,
        levels=levels,
        reward_every=reward_every,
        observe_cls=observe_cls,
        flops_budget=episode.flops_budget,
    )


@_remembered
def tiny(
    *,
    steps: int = 12,
    decision_interval: int = 2,
    decisions: int | None = None,
    knowledge: Sequence[str] = DEFAULT,
    student_width: int | None = None,
    lr: float = 1e-3,
    reward: str = "gap",
    cost_weight: float = 0.0,
    flops_budget: float | None = None,
    choice: str = "subset",
    k_max: int = 8,
    levels: Sequence[float] | None = None,
    reward_every: int | None = 1,
    observe_cls: bool = False,
    render_mode: str | None = None,
) -> DistillationEnv:
    """`ACKD/Tiny-v0`: random tiny transformers on a generated task, milliseconds a step, for tests.

    Args:
        steps: the budget in optimizer steps.
        decision_interval: as in `EpisodeConfig`.
        decisions: as in `EpisodeConfig`.
        knowledge: the types that can be selected.
        student_width: width of a student with new weights; None: a student made from the teacher's layers.
        lr: peak learning rate.
        reward: as in `distill`.
        cost_weight: as in `EpisodeConfig`.
        flops_budget: as in `EpisodeConfig`.
        choice: as in `distill`.
        k_max: as in `distill`.
        levels: as in `distill`.
        reward_every: as in `distill`.
        observe_cls: as in `distill`.
        render_mode: must be None.

    Raises:
        InputError: if an argument is invalid.
    """
    check_render_mode(render_mode)
    task, teacher = _tiny_parts()
    make_student = models.from_layers(teacher.model, 2)
    if student_width is not None:
        config = models.small_config(teacher.shape.vocabulary, 2, layers=2, width=student_width, heads=2, dropout=0.1)
        make_student = models.from_config(config)
    with torch.random.fork_rng(devices=[]):
        shape = models.shape_of(make_student())
    distillation = Distillation(
        task,
        [teacher],
        make_student,
        partial(build, knowledge, shape, teacher.shape),
        steps=steps,
        batch_size=8,
        lr=lr,
    )
    return DistillationEnv(
        distillation,
        decision_interval=decision_interval,
        decisions=decisions,
        reward=reward_of(reward, cost_weight),
        choice=choice,
        k_max=k_max,
        levels=levels,
        reward_every=reward_every,
        observe_cls=observe_cls,
        flops_budget=flops_budget,
    )


@lru_cache(maxsize=1)
def _tiny_parts() -> tuple[tasks.Task, ModelTeacher]:
    tokenizer = tasks.embedded_tokenizer("polarity")
    task = tasks.load("polarity", tokenizer, max_examples=600)
    with fork_rng(0):
        teacher = models.from_config(models.small_config(len(tokenizer), 2, layers=4, width=16, heads=2, dropout=0.1))()
    return task, ModelTeacher(teacher)
