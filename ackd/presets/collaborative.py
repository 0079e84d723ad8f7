"""Methods with several separately trained teachers, or with the initial student as second teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ackd.errors import InputError, unknown
from ackd.knowledge.revision import check_classes
from ackd.numerics.streams import fork_rng
from ackd.presets.preset import Material, Preset, classified, methods, softened
from ackd.teachers import ModelTeacher, Partitioned
from ackd.teachers.partitioned import By
from ackd.types import ModelDims, Teacher


def kd_average(student: ModelDims, teachers: Sequence[ModelDims], *, alpha: float = 0.5, tau: float = 1.0) -> Preset:
    """(1 - alpha) CE + alpha tau^2 1/M sum_m KL(p_m || p_S), batchmean; with one teacher it is plain distillation.

    Its gradient is that of tau^2 KL(1/M sum_m p_m || p_S): both differ by the teachers' disagreement, which does
    not depend on the student. The defaults are the untuned control; `ackd tune` finds others.

    Raises:
        InputError: if alpha is not from 0 to 1.

    References:
        Alballa, Canini, Practical Insights into Knowledge Distillation for Pre-Trained Models, 2024,
        https://arxiv.org/abs/2402.14922
    """
    losses, stages = softened(len(teachers), alpha, tau)
    return Preset(losses, stages)


def data_partitioning(
    student: ModelDims, teachers: Sequence[ModelDims], *, tau: float = 1.0, by: By = "label", alpha: float = 1.0
) -> Preset:
    """(1 - alpha) CE + alpha tau^2 KL(p || p_S), p of the teacher or the initial student, whichever is better.

    References:
        Roth et al., Fantastic Gains and Where to Find Them: On the Existence and Prospect of General Knowledge
        Transfer between Any Pretrained Model, ICLR 2024, https://arxiv.org/abs/2310.17653
    """
    (teacher,) = teachers
    check_classes(min(student.classes, teacher.classes), "compare")
    if by not in get_args(By):
        raise unknown("comparison", by, get_args(By))

    def revise(teachers: Sequence[Teacher], material: Material) -> Sequence[Teacher]:
        initial = _initial(material)
        return [Partitioned(one, initial, by) for one in classified(teachers, material)]

    losses, stages = softened(1, alpha, tau)
    return Preset(losses, stages, revise=revise)


def _initial(material: Material) -> ModelTeacher:
    """The student before its first step, which must be the same for all seeds."""
    one, other = (_drawn(material, seed) for seed in range(2))
    if one.fingerprint != other.fingerprint:
        raise InputError(
            "the student's first weights are drawn anew for each seed, so there is no initial student to keep to: give "
            "--student-layers, or a student that was trained on this task as --student"
        )
    return one


def _drawn(material: Material, seed: int) -> ModelTeacher:
    with fork_rng(seed):
        return ModelTeacher(material.make_student().to(material.device))


METHODS = methods(
    {
        "kd-average": kd_average,
        "data-partitioning": data_partitioning,
    }
)
