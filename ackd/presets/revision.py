"""Label revision with data selection, and related methods against a teacher's mistakes.

    p' = beta p_T + (1 - beta) e_y,  beta = eta / (max_c p_T,c - p_T,y + 1)

The methods were published only for images. Open questions are options, or listed in `unknown`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ackd.errors import InputError, unknown
from ackd.knowledge.refined import MaskedCorrelation, SampleConfidence
from ackd.knowledge.revision import Revision, Where, check_classes, check_revision
from ackd.presets.preset import Material, Preset, Weigh, classified, methods, softened
from ackd.stages import Stage
from ackd.teachers import Revised, Swapped
from ackd.types import ModelDims, Selection, Teacher
from ackd.weighting.influence import Distilled, influence

logger = logging.getLogger("ackd")

FORMS = ("kd", "mse")
SELECT = ("influence", "influence-r")


def label_revision(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    eta: float = 0.8,
    where: Where = "wrong",
    form: str = "kd",
    alpha: float = 0.5,
    tau: float = 4.0,
    lambda1: float = 4.0,
    lambda2: float = 1.0,
    keep: float = 1.0,
    select: str = "influence",
    held: float = 0.1,
) -> Preset:
    """Distillation from teacher distributions that the labels correct, on the examples that help others.

    Form `kd` is (1 - alpha) CE + alpha tau^2 KL(p' || p_S), with the temperature applied to log p'; several teachers
    share alpha. Form `mse` is CE + lambda1 MSE(z_S, z_T) over the examples that the teacher gets right + lambda2
    MSE(softmax z_S, p') over the others, as group means, like another team's implementation of the paper.

    With `keep` below 1, only this share of the training examples is distilled: those with the largest influence (the
    smallest for `influence-r`). A share `held` of the training examples is held out to measure it. All other examples
    use labels alone. `ackd.weighting.influence` is a substitute for the paper's estimator.

    References:
        Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, 2024,
        https://arxiv.org/abs/2404.03693
    """
    for one in teachers:
        check_revision(one.classes, eta, where)
    if form not in FORMS:
        raise unknown("form of label revision", form, FORMS)
    if select not in SELECT:
        raise unknown("selection of examples", select, SELECT)
    for what, share in {"keep": keep, "held": held}.items():
        if not 0 < share <= 1:
            raise InputError(f"{what} is {share}: give a share of the examples above 0, at most 1")
    selecting = keep < 1
    if form == "mse":
        if len(teachers) > 1:
            raise InputError("form=mse learns from one teacher: name one, or leave form=mse away")
        loss = Revision(student, teachers[0], eta=eta, lambda1=lambda1, lambda2=lambda2)
        # the loss contains the label loss of the distilled examples; the labels cover the others, if any
        stages = [Stage(1.0, Selection({loss.name: 1.0}, labels=float(selecting)))]
        weigh = _selecting(keep, select, held, rest=True) if selecting else None
        return Preset([loss], stages, revise=classified, weigh=weigh)
    if selecting and not alpha < 1:
        raise InputError(
            "what is not distilled learns from labels alone, and alpha=1 leaves those no weight: give alpha below 1"
        )

    def revise(teachers: Sequence[Teacher], material: Material) -> Sequence[Teacher]:
        return [Revised(one, eta, where) for one in classified(teachers, material)]

    losses, stages = softened(len(teachers), alpha, tau)
    weigh = _selecting(keep, select, held) if selecting else None
    return Preset(losses, stages, revise=revise, weigh=weigh, gives_way=True)


def swap(student: ModelDims, teachers: Sequence[ModelDims], *, alpha: float = 0.5, tau: float = 4.0) -> Preset:
    """(1 - alpha) CE + alpha tau^2 KL(p_T || p_S), z_T[y] and max z_T swapped; several teachers share alpha.

    References:
        Wen et al., Preparing Lessons: Improve Knowledge Distillation with Better Supervision, 2019,
        https://arxiv.org/abs/1911.07471
    """
    for one in teachers:
        check_classes(one.classes, "swap")

    def revise(teachers: Sequence[Teacher], material: Material) -> Sequence[Teacher]:
        return [Swapped(one) for one in classified(teachers, material)]

    losses, stages = softened(len(teachers), alpha, tau)
    return Preset(losses, stages, revise=revise, gives_way=True)


def refined_logits(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    labels: float = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    alpha_tau: float = 1.0,
    tau: float = 4.0,
) -> Preset:
    """A weight `labels` on CE + alpha SCD at temperature alpha_tau + beta MCD at temperature tau.

    References:
        Sun et al., Knowledge Distillation with Refined Logits, 2024, https://arxiv.org/abs/2408.07703
    """
    (teacher,) = teachers
    confidence = SampleConfidence(student, teacher, temperature=alpha_tau)
    correlation = MaskedCorrelation(student, teacher, temperature=tau)
    selection = Selection({confidence.name: alpha, correlation.name: beta}, labels=labels)
    return Preset([confidence, correlation], [Stage(1.0, selection)], revise=classified)


def _selecting(keep: float, select: str, held: float, *, rest: bool = False) -> Weigh:
    """Scores the training examples by their influence under the first teacher."""

    def weigh(teachers: Sequence[Teacher], material: Material) -> Distilled:
        classified(teachers, material)
        size, spent = len(material.train), material.costs
        count = max(round(held * size), 1)
        out = np.arange(count) * size // count  # evenly spread
        before = spent.flops["teacher"]
        with spent.timing("teacher"):
            scores = influence(teachers[0], material.train, out, device=material.device, costs=spent)
        chosen = Distilled.best(material.train, -scores if select == "influence-r" else scores, keep, rest=rest)
        logger.info(
            "%s: %d of %d training examples are distilled; scoring them took %.3g GFLOPs of the teacher",
            select,
            len(chosen.ids),
            size,
            (spent.flops["teacher"] - before) / 1e9,
        )
        return chosen

    return weigh


METHODS = methods(
    {
        "label-revision": label_revision,
        "swap": swap,
        "refined-logits": refined_logits,
    }
)
