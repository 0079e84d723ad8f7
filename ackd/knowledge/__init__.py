"""Knowledge types: losses for each example, with masked padding; one kind of loss in each file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ackd.errors import InputError, unknown
from ackd.knowledge.attention import Attention, AttentionKL, shared_heads
from ackd.knowledge.cls import HiddenCls
from ackd.knowledge.cosine import HiddenCosine
from ackd.knowledge.fsp import Fsp
from ackd.knowledge.hidden import Hidden
from ackd.knowledge.jsd import JensenShannon, ReverseKL
from ackd.knowledge.labels import assess, label_loss, token_loss, token_sums
from ackd.knowledge.layers import LayerMap, last_pair, layer_map
from ackd.knowledge.logits import Logits, LogitsCosine, LogitsMse, LogitsSoftCrossEntropy
from ackd.knowledge.own import NewKnowledge, check_losses, listed, name_of, own
from ackd.knowledge.refined import MaskedCorrelation, SampleConfidence
from ackd.knowledge.relations import Relations
from ackd.knowledge.revision import Revision
from ackd.knowledge.rkd import RkdAngle, RkdDistance
from ackd.knowledge.similarity import Similarity
from ackd.knowledge.tokens import Tokens
from ackd.knowledge.top_k import TopK
from ackd.knowledge.top_tokens import TopTokens
from ackd.types import EMBEDDINGS, Knowledge, ModelDims

__all__ = [
    "DEFAULT",
    "NAMES",
    "SENTENCES",
    "Attention",
    "AttentionKL",
    "Fsp",
    "Hidden",
    "HiddenCls",
    "HiddenCosine",
    "JensenShannon",
    "LayerMap",
    "Logits",
    "LogitsCosine",
    "LogitsMse",
    "LogitsSoftCrossEntropy",
    "MaskedCorrelation",
    "NewKnowledge",
    "Relations",
    "ReverseKL",
    "Revision",
    "RkdAngle",
    "RkdDistance",
    "SampleConfidence",
    "Similarity",
    "Tokens",
    "TopK",
    "TopTokens",
    "assess",
    "build",
    "check_losses",
    "label_loss",
    "last_pair",
    "layer_map",
    "listed",
    "name_of",
    "shared_heads",
    "token_loss",
    "token_sums",
]


@dataclass(frozen=True)
class _Models:
    """The models and options that knowledge types are built from."""

    student: ModelDims
    teacher: ModelDims
    layers: str
    temperature: float

    @property
    def pairs(self) -> LayerMap:
        """The layer map; computed and checked only for a type that needs it."""
        return layer_map(self.layers, self.student.layers, self.teacher.layers)

    @property
    def last(self) -> LayerMap:
        """The layer map for types whose papers compare one layer of each model."""
        return last_pair(self.layers, self.student.layers, self.teacher.layers)

    @property
    def both(self) -> tuple[ModelDims, ModelDims]:
        return self.student, self.teacher


_TYPES: dict[str, Callable[[_Models], Knowledge]] = {
    "logits": lambda m: Logits(temperature=m.temperature),
    "logits-mse": lambda m: LogitsMse(),
    "logits-soft-ce": lambda m: LogitsSoftCrossEntropy(),
    "logits-cosine": lambda m: LogitsCosine(*m.both),
    "reverse-kl": lambda m: ReverseKL(temperature=m.temperature),
    "jsd": lambda m: JensenShannon(temperature=m.temperature),
    "top-k": lambda m: TopK(temperature=m.temperature),
    "logits-uncertain-teacher": lambda m: TopTokens(Logits(temperature=m.temperature), by="teacher"),
    "reverse-kl-uncertain-student": lambda m: TopTokens(ReverseKL(temperature=m.temperature)),
    "embeddings": lambda m: Hidden(*m.both, ((EMBEDDINGS, EMBEDDINGS),), name="embeddings"),
    "hidden": lambda m: Hidden(*m.both, m.pairs),
    "hidden-cls": lambda m: HiddenCls(*m.both, m.pairs),
    "hidden-cosine": lambda m: HiddenCosine(*m.both, m.last),
    "attention": lambda m: Attention(*m.both, m.pairs),
    "attention-kl": lambda m: AttentionKL(*m.both, m.last),
    "values": lambda m: Relations(
        *m.both, m.last, of=("values",), heads=shared_heads(*m.both, "values"), name="values"
    ),
    "qkv": lambda m: Relations(*m.both, m.last),
    "fsp": lambda m: Fsp(*m.both, m.pairs),
    "rkd-distance": lambda m: RkdDistance(*m.both),
    "rkd-angle": lambda m: RkdAngle(*m.both),
    "similarity": lambda m: Similarity(*m.both),
}
NAMES = tuple(_TYPES)
DEFAULT = ("logits", "hidden", "attention")
SENTENCES = ("logits-cosine", "similarity", "hidden", "attention")  # default for sentence encoders


def build(
    names: Sequence[str | Knowledge | NewKnowledge],
    student: ModelDims,
    teacher: ModelDims,
    *,
    layers: str = "uniform",
    temperature: float = 4.0,
    teacher_place: int = 0,
    suffix: str = "",
) -> list[Knowledge]:
    """Builds the named knowledge types for a pair of models, in the order of the names.

    Args:
        names: some of `NAMES`, your own types, which are copied, or functions that make a type from the sizes of
            student and teacher.
        student: the student's sizes.
        teacher: the teacher's sizes.
        layers: the layer map, a rule or pairs. With a rule, types whose papers use one layer get the last pair.
        temperature: temperature of `logits`, `reverse-kl`, `jsd`, `top-k` and the
            types that are named after them; other types ignore it.
        teacher_place: index of the teacher among several.
        suffix: appended to each name, to distinguish the same types for several teachers.

    Raises:
        InputError: for an unknown or repeated name, or a type that does not fit the pair of models.
    """
    for name in names:
        if isinstance(name, str) and name not in _TYPES:
            raise unknown("knowledge type", name, NAMES)
    models = _Models(student, teacher, layers, temperature)
    made = [own(name, student, teacher) if not isinstance(name, str) else _TYPES[name](models) for name in names]
    called = [one.name for one in made]
    if len(set(called)) < len(called):
        raise InputError(f"a knowledge type is named twice in {' '.join(called)}: name each once")
    for one in made:
        one.name += suffix
        one.teacher = teacher_place
    return made
