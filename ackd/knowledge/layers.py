"""Layer maps: the teacher layer for each student layer. Layer 0 is the first transformer layer."""

from __future__ import annotations

import re

from ackd.errors import InputError, unknown
from ackd.numerics.spread import evenly

LayerMap = tuple[tuple[int, int], ...]  # (student layer, teacher layer)
RULES = ("uniform", "last", "skip")


def layer_map(rule: str, student_depth: int, teacher_depth: int) -> LayerMap:
    """The pairs of student and teacher layers that a rule gives for these depths.

    `uniform` spreads the student's layers evenly over the teacher and matches the last layers of both. `skip` is the
    same without the last pair (PKD-skip). `last` matches all but the student's last layer with the layers below the
    teacher's last (PKD-last). `0:1,1:3,2:5` names the pairs; a layer may occur more than once.

    References:
        Sun et al., Patient Knowledge Distillation for BERT Model Compression, 2019, https://arxiv.org/abs/1908.09355
        Jiao et al., TinyBERT, 2020, https://arxiv.org/abs/1909.10351

    Raises:
        InputError: for an unknown rule, an index out of range, a repeated pair, or a rule that leaves no pair.

    Example:
        >>> layer_map("uniform", 3, 6)
        ((0, 1), (1, 3), (2, 5))
        >>> layer_map("last", 3, 12)
        ((0, 9), (1, 10))
    """
    if re.fullmatch(r"\s*\d+\s*:\s*\d+\s*(,\s*\d+\s*:\s*\d+\s*)*", rule):
        pairs = tuple(_pair(part) for part in rule.split(","))
        _check(pairs, student_depth, teacher_depth)
        return pairs
    if rule not in RULES:
        raise unknown("layer map", rule, [*RULES, "0:1,1:3,2:5 (student:teacher, counted from 0)"])
    if student_depth > teacher_depth:
        raise InputError(
            f"the layer map {rule!r} needs a teacher at least as deep as the student, which has {student_depth} "
            f"layers to the teacher's {teacher_depth}: name the pairs instead, as in 0:0,1:0"
        )
    uniform = tuple((i, evenly(student_depth, teacher_depth)[i]) for i in range(student_depth))
    if rule == "uniform":
        return uniform
    if student_depth < 2:
        raise InputError(
            f"the layer map {rule!r} leaves out the student's last layer, and it has only one: use 'uniform'"
        )
    if rule == "skip":
        return uniform[:-1]
    return tuple((i, teacher_depth - student_depth + i) for i in range(student_depth - 1))


def last_pair(rule: str, student_depth: int, teacher_depth: int) -> LayerMap:
    """The layer map for types with one pair of layers: the last layers for a rule, or all named pairs.

    Example:
        >>> last_pair("skip", 3, 6), last_pair("0:1,1:3", 3, 6)
        (((2, 5),), ((0, 1), (1, 3)))
    """
    return ((student_depth - 1, teacher_depth - 1),) if rule in RULES else layer_map(rule, student_depth, teacher_depth)


def student_layers(pairs: LayerMap) -> frozenset[int]:
    """Each student layer that the pairs name."""
    return frozenset(student for student, _ in pairs)


def teacher_layers(pairs: LayerMap) -> frozenset[int]:
    """Each teacher layer that the pairs name."""
    return frozenset(teacher for _, teacher in pairs)


def _pair(text: str) -> tuple[int, int]:
    student, teacher = text.split(":")
    return int(student), int(teacher)


def _check(pairs: LayerMap, student_depth: int, teacher_depth: int) -> None:
    for student, teacher in pairs:
        if pairs.count((student, teacher)) > 1:
            raise InputError(f"the layer map names the pair {student}:{teacher} twice: name each pair once")
        for who, layer, depth in (("student", student, student_depth), ("teacher", teacher, teacher_depth)):
            if layer >= depth:
                raise InputError(
                    f"the layer map names {who} layer {layer}, but the {who} has {depth} layers: 0 to {depth - 1}"
                )
