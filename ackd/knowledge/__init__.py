"""What can be transferred: one kind of loss a file, each per example and masked."""

from __future__ import annotations

from collections.abc import Sequence

from ackd.errors import InputError, unknown
from ackd.knowledge.attention import Attention
from ackd.knowledge.hidden import Hidden
from ackd.knowledge.labels import label_loss
from ackd.knowledge.layers import LayerMap, evenly, layer_map
from ackd.knowledge.logits import Logits
from ackd.types import Knowledge, Shape

__all__ = ["NAMES", "Attention", "Hidden", "LayerMap", "Logits", "build", "evenly", "label_loss", "layer_map"]

NAMES = ("logits", "hidden", "attention")


def build(
    names: Sequence[str], student: Shape, teacher: Shape, *, layers: str = "uniform", temperature: float = 4.0
) -> list[Knowledge]:
    """The named knowledge types for this pair of models, in the order of the names.

    Raises:
        InputError: for an unknown or repeated name, or a type that the pair cannot satisfy.
    """
    if len(set(names)) < len(names):
        raise InputError(f"a knowledge type is named twice in {' '.join(names)}: name each once")
    for name in names:
        if name not in NAMES:
            raise unknown("knowledge type", name, NAMES)
    pairs = layer_map(layers, student.layers, teacher.layers) if set(names) - {"logits"} else ()
    made: list[Knowledge] = []
    for name in names:
        if name == "logits":
            made.append(Logits(temperature=temperature))
        elif name == "hidden":
            made.append(Hidden(student, teacher, pairs))
        else:
            made.append(Attention(student, teacher, pairs))
    return made
