"""Checks of a distillation of language models: their vocabularies, and what compares more than tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ackd import models
from ackd.errors import InputError
from ackd.knowledge import HiddenCls, MaskedCorrelation, Revision, RkdAngle, RkdDistance, SampleConfidence, Similarity
from ackd.models import Tokenizer
from ackd.presets import Preset
from ackd.tasks import Task
from ackd.types import Teacher

logger = logging.getLogger("ackd")

WHOLE = (HiddenCls, RkdDistance, RkdAngle, Similarity, MaskedCorrelation, SampleConfidence, Revision)
WORKS = "--preset kd, tinybert, minilm, minilmv2 or distilbert"


def check_vocabularies(
    names: Sequence[str], tokenizers: Sequence[Tokenizer], sizes: Sequence[int], tokenizer: Tokenizer, size: int
) -> None:
    """Compares the tokenizers of teachers and student, and says where vocabularies are cut to the shared tokens.

    Args:
        names: of the teachers.
        tokenizers: of the teachers.
        sizes: of the teachers' vocabularies.
        tokenizer: of the student.
        size: of the student's vocabulary.

    Raises:
        InputError: if a teacher has another tokenizer, or a smaller vocabulary than the tokenizer.
    """
    for name, its, theirs in zip(names, tokenizers, sizes, strict=True):
        if not models.same_vocabulary(its, tokenizer):
            raise InputError(
                f"the teacher {name} has another tokenizer than the student, and tokens that mean different words "
                "cannot be compared: take models of one tokenizer, or let the student learn from texts that the "
                "teacher has chosen or written (ackd refine-data --retokenise, ackd generate)"
            )
        if theirs < len(tokenizer):
            raise InputError(
                f"the teacher {name} has a vocabulary of {theirs}, less than the {len(tokenizer)} tokens of the "
                "tokenizer: take a model and a tokenizer that were made for each other"
            )
        if theirs != size:
            logger.warning(
                "the teacher %s answers with %d tokens and the student with %d: they are compared on the first %d; "
                "the tokenizer has %d",
                name, theirs, size, min(theirs, size), len(tokenizer),
            )  # fmt: skip


def check_method(method: Preset, preset: str | None) -> None:
    """Refuses what compares whole examples, or picks them.

    Raises:
        InputError: if a loss does so, or a preset reads labels or probabilities of examples.
    """
    for one in method.knowledge:
        if isinstance(one, WHOLE):
            raise InputError(
                f"{one.name!r} compares whole examples, and a language model answers every token: transfer logits, "
                f"reverse-kl, jsd, hidden or attention, or take {WORKS}"
            )
    if any(one is not None for one in (method.weighting, method.example_filter, method.revise, method.weigh)):
        raise InputError(f"the preset {preset!r} needs classes, and next tokens have none: take {WORKS}")


def check_lengths(task: Task, student: models.Model, teachers: Sequence[Teacher], names: Sequence[str]) -> None:
    """Refuses chunks that are longer than a model reads.

    Raises:
        InputError: if there are some.
    """
    longest = max(int(split.lengths.max()) for split in (task.train, *task.dev.values())) - 1
    models.check_length(student, longest, "the student")
    for teacher, name in zip(teachers, names, strict=True):
        model = getattr(teacher, "model", None)
        if models.is_model(model):
            models.check_length(model, longest, f"the teacher {name}")
