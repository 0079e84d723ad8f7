"""Which teacher layer each student layer learns from. Layers count from 0, the first transformer layer."""

from __future__ import annotations

import re

from ackd.errors import InputError, unknown

LayerMap = tuple[tuple[int, int], ...]  # (student layer, teacher layer)
RULES = ("uniform", "last", "skip")


def layer_map(rule: str, student_layers: int, teacher_layers: int) -> LayerMap:
    """The pairs that a rule gives for these depths.

    `uniform` spreads the student over the whole teacher, its last layer on the teacher's last; `skip` is the same
    without the last pair (PKD-skip); `last` matches all but the student's last layer with the layers below the
    teacher's last (PKD-last); `0:1,1:3,2:5` names the pairs.

    References:
        Sun et al., Patient Knowledge Distillation for BERT Model Compression, 2019, https://arxiv.org/abs/1908.09355
        Jiao et al., TinyBERT, 2020, https://arxiv.org/abs/1909.10351

    Raises:
        InputError: for an unknown rule, an index out of range, or a rule that leaves no pair.

    Example:
        >>> layer_map("uniform", 3, 6)
        ((0, 1), (1, 3), (2, 5))
        >>> layer_map("last", 3, 12)
        ((0, 9), (1, 10))
    """
    if re.fullmatch(r"\s*\d+\s*:\s*\d+\s*(,\s*\d+\s*:\s*\d+\s*)*", rule):
        pairs = tuple(_pair(part) for part in rule.split(","))
        _check(pairs, student_layers, teacher_layers)
        return pairs
    if rule not in RULES:
        raise unknown("layer map", rule, [*RULES, "0:1,1:3,2:5 (student:teacher, counted from 0)"])
    if student_layers > teacher_layers:
        raise InputError(
            f"the layer map {rule!r} needs a teacher at least as deep as the student, which has {student_layers} "
            f"layers to the teacher's {teacher_layers}: name the pairs instead, as in 0:0,1:0"
        )
    uniform = tuple((i, evenly(student_layers, teacher_layers)[i]) for i in range(student_layers))
    if rule == "uniform":
        return uniform
    if student_layers < 2:
        raise InputError(
            f"the layer map {rule!r} leaves out the student's last layer, and it has only one: use 'uniform'"
        )
    if rule == "skip":
        return uniform[:-1]
    return tuple((i, teacher_layers - student_layers + i) for i in range(student_layers - 1))


def evenly(count: int, layers: int) -> tuple[int, ...]:
    """`count` of `layers` layers at even distances, the last one included.

    Example:
        >>> evenly(3, 6)
        (1, 3, 5)
    """
    return tuple(round((i + 1) * layers / count) - 1 for i in range(count))


def _pair(text: str) -> tuple[int, int]:
    student, teacher = text.split(":")
    return int(student), int(teacher)


def _check(pairs: LayerMap, student_layers: int, teacher_layers: int) -> None:
    for student, teacher in pairs:
        for who, layer, depth in (("student", student, student_layers), ("teacher", teacher, teacher_layers)):
            if layer >= depth:
                raise InputError(
                    f"the layer map names {who} layer {layer}, but the {who} has {depth} layers: 0 to {depth - 1}"
                )
