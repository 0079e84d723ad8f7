"""What the registered ids build, from keyword arguments that are plain JSON."""

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
from ackd.mdp.rewards import Reward, named
from ackd.numerics.streams import fork_rng
from ackd.stages import check_stages
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation

P = ParamSpec("P")


def _remembered(make: Callable[P, DistillationEnv]) -> Callable[P, DistillationEnv]:
    """Environments that know how they were made, so that they can be pickled."""

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> DistillationEnv:
        env = make(*args, **renamed(kwargs))  # names of before are read as well
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
    """`ACKD/Distill-v0`: a real task.

    Args:
        reward: one of `ackd.mdp.rewards.REWARDS`, where gap is either-gap; or a `Reward`.
        choice: subset | levels | weights | type-subset | type-shares, or a `Choice`; a preset has its own, one action
            for each of its stages.
        k_max: length of the action.
        levels: of the choice levels, the weights to choose from.
        reward_every: decisions from one measurement on the reward split to the next; None measures nothing.
        observe_cls: also observe the first-token outputs of student and teacher.
        render_mode: None.
        **setting: as `ackd.prepare` takes it (task, teacher, data, student_layers, steps, ...), and the other fields
            of `ackd.config.EpisodeConfig`.

    Raises:
        InputError: if any of it cannot work.
    """
    from ackd.building.setting import prepare

    check_render_mode(render_mode)
    own = {name: setting.pop(name) for name in names_of(EpisodeConfig) if name in setting}
    episode = checked(EpisodeConfig, own)
    earned = named(reward, episode.cost_weight) if isinstance(reward, str) else reward
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
        student_width: a student of this width with weights of its own, instead of the teacher's layers.
        lr: peak learning rate.
        reward: as in `distill`.
        cost_weight: as in `EpisodeConfig`.
        flops_budget: as in `EpisodeConfig`.
        choice: as in `distill`.
        k_max: as in `distill`.
        levels: as in `distill`.
        reward_every: as in `distill`.
        observe_cls: as in `distill`.
        render_mode: None.

    Raises:
        InputError: if any of it cannot work.
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
        reward=named(reward, cost_weight),
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
    task = tasks.load("polarity", tokenizer, max_examples=600, reward_examples=64)
    with fork_rng(0):
        teacher = models.from_config(models.small_config(len(tokenizer), 2, layers=4, width=16, heads=2, dropout=0.1))()
    return task, ModelTeacher(teacher)
