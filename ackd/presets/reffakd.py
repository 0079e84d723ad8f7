"""Soft labels without a teacher: from an autoencoder, and as a control, plain label smoothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ackd.costs import CostTracker
from ackd.errors import InputError
from ackd.knowledge import Logits, LogitsSoftCrossEntropy
from ackd.numerics.streams import fork_rng
from ackd.presets.preset import Material, Preset, methods
from ackd.stages import Stage
from ackd.teachers.autoencoder import STEPS, Indices, Inputs, soft_labels
from ackd.teachers.labels import LabelTeacher, smooth_labels
from ackd.types import Knowledge, ModelDims, Selection, Teacher

logger = logging.getLogger("ackd")

LEAST = "least"


def reffakd(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    alpha: float = 0.5,
    tau: float = 5.0,
    form: str = "kl",
    similarity_temperature: float = 0.1,
    boost: str = LEAST,
    per_class: int = 40,
    fit_steps: int = STEPS,
    seed: int = 42,
) -> Preset:
    """(1 - alpha) CE + alpha tau^2 KL(q_y || softmax(z / tau)) elementmean, or with `ce` the soft cross-entropy.

    `q_y` is the label's row of a table from an autoencoder of the training data; it has no temperature. The authors
    search tau in 1, 5, 10, 20 and alpha in 0.1 to 0.9. A named teacher does not teach: it may give the student its
    layers, and reports compare the student with it.

    Args:
        student: the student's sizes.
        teachers: the sizes of the named teachers, if any.
        alpha: weight of the soft labels.
        tau: temperature of the student's logits.
        form: kl | ce.
        similarity_temperature: temperature of the softmax over similarities; the published value 1 leaves `q` almost
            uniform.
        boost: added to the similarity of a class to itself: a number, or `least`, which makes it the largest.
        per_class: examples of each class to compare.
        fit_steps: training steps of the autoencoder, with batches of 128.
        seed: seed of the autoencoder and of the drawn examples.

    Raises:
        InputError: for regression, or an option out of range.

    References:
        Doshi, Kim, ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation, 2023,
        https://arxiv.org/abs/2404.09886
    """
    _check_share("alpha", alpha)
    more = _number(boost)
    types: dict[str, tuple[Knowledge, float]] = {
        "kl": (Logits(temperature=tau, teacher_temperature=1.0), alpha / student.classes),
        "ce": (LogitsSoftCrossEntropy(temperature=tau, teacher_temperature=1.0), alpha * tau**2),
    }
    if form not in types:
        raise InputError(f"there is no form {form!r}: use kl or ce")

    def make(material: Material) -> LabelTeacher:
        return _of_likeness(
            material,
            per_class=per_class,
            boost=more,
            temperature=similarity_temperature,
            steps=fit_steps,
            seed=seed,
        )

    return _taught(*types[form], student, teachers, make, labels=1 - alpha)


def label_smoothing(student: ModelDims, teachers: Sequence[ModelDims], *, epsilon: float = 0.1) -> Preset:
    """(1 - epsilon) CE + epsilon CE to equally likely classes: soft labels that do not distinguish classes.

    Raises:
        InputError: for regression, or an `epsilon` outside (0, 1).

    References:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
        https://arxiv.org/abs/1512.00567
    """
    _check_share("epsilon", epsilon)

    def make(material: Material) -> LabelTeacher:
        return smooth_labels(material.classes)

    return _taught(LogitsSoftCrossEntropy(), epsilon, student, teachers, make, labels=1 - epsilon)


def _taught(
    loss: Knowledge,
    weight: float,
    student: ModelDims,
    teachers: Sequence[ModelDims],
    make: Callable[[Material], LabelTeacher],
    *,
    labels: float,
) -> Preset:
    """One loss on the labels and one on soft labels; the soft labels' teacher comes after the named ones."""
    if student.classes < 2:
        raise InputError("soft labels are distributions over classes, which a regression has not")
    loss.teacher = len(teachers)

    def revise(named: Sequence[Teacher], material: Material) -> Sequence[Teacher]:
        return [*named, make(material)]

    return Preset([loss], [Stage(1.0, Selection({loss.name: weight}, labels=labels))], revise=revise)


def _of_likeness(material: Material, **how: Any) -> LabelTeacher:
    """A teacher of soft labels from the similarity of classes, measured on images if there are any."""
    images, spent = material.images, CostTracker()
    with spent.timing("teacher"):
        made = soft_labels(
            _pooled(material) if images is None else lambda indices: images[torch.from_numpy(indices)],
            material.train.labels,
            material.classes,
            images=images is not None,
            costs=spent,
            **how,
        )
    material.costs.add(spent)
    leads = int((made.table.argmax(1) == torch.arange(material.classes)).sum())
    logger.info(
        "soft labels from %s: %.1f GFLOPs in %.1f s; the likeliest class is the label in %d of %d rows, at %.3f on "
        "average",
        "word embeddings" if images is None else "images",
        spent.flops["teacher"] / 1e9,
        spent.seconds["teacher"],
        leads,
        material.classes,
        made.table.diagonal().mean(),
    )
    return made


def _pooled(material: Material) -> Inputs:
    """Sentences as mean word embeddings of the initial student over their tokens, [R, d]."""
    with fork_rng(0):
        embeddings = material.make_student().get_input_embeddings().cpu()

    def pooled(indices: Indices) -> Tensor:
        batch = material.train.batch(indices)
        with torch.no_grad():
            vectors: Tensor = embeddings(batch.inputs["input_ids"]).float()
        mask = batch.mask[..., None]
        return (vectors * mask).sum(1) / mask.sum(1)

    return pooled


def _number(boost: str | float) -> float | None:
    if boost == LEAST:
        return None
    try:
        return float(boost)
    except ValueError:
        raise InputError(f"the boost is a number or {LEAST!r}, not {boost!r}") from None


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} must be above 0 and below 1, got {value}: labels and soft labels share the loss")


METHODS = methods(
    {
        "reffakd": reffakd,
        "label-smoothing": label_smoothing,
    }
)
