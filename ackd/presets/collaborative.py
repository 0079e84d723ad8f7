"""One student of several models that learned apart."""

from __future__ import annotations

from collections.abc import Sequence

from ackd.errors import InputError
from ackd.knowledge import Logits
from ackd.presets.preset import Method, Preset
from ackd.stages import Stage
from ackd.types import Knowledge, Selection, Shape


def kd_average(student: Shape, teachers: Sequence[Shape], *, alpha: float = 0.5, tau: float = 1.0) -> Preset:
    """(1 - alpha) CE + alpha tau^2 1/M sum_m KL(p_m || p_S), batchmean; one of its teachers is plain distillation.

    Its gradient is that of tau^2 KL(1/M sum_m p_m || p_S): the two differ by how far the teachers disagree, which
    does not depend on the student. The defaults are the untuned control; `ackd tune` finds others.

    Raises:
        InputError: if alpha is not from 0 to 1.

    References:
        Alballa, Canini, Practical Insights into Knowledge Distillation for Pre-Trained Models, 2024,
        https://arxiv.org/abs/2402.14922
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}: it is the weight of the teachers, from 0 to 1")
    losses: list[Knowledge] = []
    for place in range(len(teachers)):
        losses.append(Logits(temperature=tau, name=f"logits@{place + 1}" if len(teachers) > 1 else "logits"))
        losses[-1].teacher = place
    selection = Selection({one.name: alpha / len(losses) for one in losses}, labels=1 - alpha)
    return Preset(losses, [Stage(1.0, selection)])


METHODS = (
    Method(
        "kd-average",
        kd_average,
        "Practical Insights into Knowledge Distillation for Pre-Trained Models",
        2024,
        "https://arxiv.org/abs/2402.14922",
        does="labels and the averaged softened outputs of several models",
        cost="a pass of each teacher a step",
        known="formula ours: the paper's idea of consolidating models into one, by plain distillation",
        unknown="the paper's grid, its best settings for each split, its data sets, models and numbers of clients; "
        "whether it distils from its teachers at once or one after the other",
        teachers=(1, 1000),
    ),
)
