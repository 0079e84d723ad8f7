"""Published methods as settings of knowledge, weights and stages, with each paper's own reduction.

Weights of published losses include the factor of their reduction: `elementmean` over B x C is the mean over examples
divided by C, and a sum over layers is the mean times their number. Two things differ from every paper on purpose.
Losses are means over valid tokens, so that they do not depend on the padding, which the papers' code counts too. Layers
that the papers map by an integer ratio are spread as evenly as the depths allow. If student and teacher differ in
width, hidden states pass a learned projection, even if the paper has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ackd.knowledge import (
    Attention,
    AttentionKL,
    Hidden,
    HiddenCls,
    HiddenCosine,
    Logits,
    LogitsSoftCrossEntropy,
    Relations,
    RkdAngle,
    RkdDistance,
    last_pair,
    layer_map,
    shared_heads,
)
from ackd.presets.preset import Preset, methods
from ackd.stages import Stage
from ackd.types import EMBEDDINGS, ModelDims, Selection

# Published recipes, if the training loop is known; docs/knowledge.md lists the sources.
PKD: Mapping[str, Any] = {"warmup": 0.1, "weight_decay": 0.01, "adam_betas": (0.9, 0.999), "schedule": "linear"}
TINYBERT = PKD  # for its second stage; in the first stage the learning rate is constant
MINILM = {**PKD, "warmup": 0.01}  # 4,000 of 400,000 steps of pre-training; not checked against the paper
DISTILBERT: Mapping[str, Any] = {
    "warmup": 0.05,
    "weight_decay": 0.0,
    "adam_betas": (0.9, 0.98),
    "schedule": "linear",
    "gradient_clipping": 5.0,
}


def kd(student: ModelDims, teachers: Sequence[ModelDims], *, alpha: float = 0.5, tau: float = 4.0) -> Preset:
    """(1 - alpha) CE + alpha tau^2 KL(p_T || p_S), batchmean.

    References:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531
    """
    selection = Selection({"logits": alpha}, labels=1 - alpha)
    return Preset([Logits(temperature=tau)], [Stage(1.0, selection)])


def pkd(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    layers: str = "skip",
    alpha: float = 0.7,
    tau: float = 10.0,
    beta: float = 500.0,
) -> Preset:
    """(1 - alpha) CE + alpha tau^2 KL (elementmean) + beta MSE of L2-normalised [CLS] vectors.

    The layer map is skip or last. The defaults are those of the authors' script; their table was tuned over tau 5 to 20
    and beta 10 to 1000.

    References:
        Sun et al., Patient Knowledge Distillation for BERT Model Compression, 2019, https://arxiv.org/abs/1908.09355
    """
    (teacher,) = teachers
    pairs = layer_map(layers, student.layers, teacher.layers)
    selection = Selection({"logits": alpha / teacher.classes, "hidden-cls": beta}, labels=1 - alpha)
    losses = [Logits(temperature=tau), HiddenCls(student, teacher, pairs)]
    return Preset(losses, [Stage(1.0, selection)], recipe=PKD)


def tinybert(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    layers: str = "uniform",
    intermediate: float = 10 / 13,
    project: bool = True,
) -> Preset:
    """First embeddings, hidden states and attention scores, summed over layers; then only soft cross-entropy.

    `intermediate` is the share of the first stage: the authors train 10 epochs and then 3. The second stage's loss is
    the elementmean at tau = 1 without labels; for regression it is the loss on the gold scores, without the teacher.
    With `project`, hidden states pass a learned projection also at equal widths (`fit_dense`). Here both stages share
    one learning-rate schedule.

    References:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020,
        https://arxiv.org/abs/1909.10351; code: huawei-noah/Pretrained-Language-Model, TinyBERT/task_distill.py
    """
    (teacher,) = teachers
    pairs = layer_map(layers, student.layers, teacher.layers)
    hidden = ((EMBEDDINGS, EMBEDDINGS), *pairs)
    losses = [Hidden(student, teacher, hidden, projected=project), Attention(student, teacher, pairs)]
    first = Selection({"hidden": len(hidden), "attention": len(pairs)}, labels=0.0)
    if teacher.classes == 1:
        return Preset(losses, [Stage(intermediate, first), Stage(1 - intermediate, Selection())], recipe=TINYBERT)
    second = Selection({"logits-soft-ce": 1 / teacher.classes}, labels=0.0)
    stages = [Stage(intermediate, first), Stage(1 - intermediate, second)]
    return Preset([*losses, LogitsSoftCrossEntropy()], stages, recipe=TINYBERT)


def minilm(
    student: ModelDims, teachers: Sequence[ModelDims], *, layers: str = "uniform", distilled: float = 0.5
) -> Preset:
    """First KL of the last layer's attention and of its value relations, without labels; then only labels.

    `distilled` is the share of the first stage, which is a separate pre-training in the paper.

    References:
        Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
        Transformers, 2020, https://arxiv.org/abs/2002.10957
    """
    (teacher,) = teachers
    pairs = last_pair(layers, student.layers, teacher.layers)
    heads = shared_heads(student, teacher, "values")
    values = Relations(student, teacher, pairs, of=("values",), heads=heads, name="values")
    first = Stage(distilled, Selection({"attention-kl": 1.0, "values": 1.0}, labels=0.0))
    stages = [first, Stage(1 - distilled, Selection())]
    return Preset([AttentionKL(student, teacher, pairs), values], stages, recipe=MINILM)


def minilmv2(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    layers: str = "uniform",
    relation_heads: int | None = None,
    distilled: float = 0.5,
) -> Preset:
    """First the last layer's query, key and value relations over free relation heads; then only the labels.

    The authors use 48 relation heads for teachers of base size, the default if the widths allow it. For large teachers
    they use an upper-middle layer: name it in `layers`, as 5:20.

    References:
        Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers,
        2021, https://arxiv.org/abs/2012.15828
    """
    (teacher,) = teachers
    pairs = last_pair(layers, student.layers, teacher.layers)
    relations = Relations(student, teacher, pairs, heads=relation_heads)
    first = Stage(distilled, Selection({"qkv": 1.0}, labels=0.0))
    return Preset([relations], [first, Stage(1 - distilled, Selection())], recipe=MINILM)


def distilbert(
    student: ModelDims, teachers: Sequence[ModelDims], *, layers: str = "uniform", tau: float = 2.0
) -> Preset:
    """5 tau^2 KL (batchmean) + 2 CE + 1 (1 - cos) of the last hidden states.

    Labels replace the paper's masked words. The cosine is a mean over all tokens of the batch, not over the tokens of
    each example first.

    References:
        Sanh et al., DistilBERT, a distilled version of BERT, 2019, https://arxiv.org/abs/1910.01108; code:
        huggingface/transformers, examples/research_projects/distillation/distiller.py
    """
    (teacher,) = teachers
    pairs = last_pair(layers, student.layers, teacher.layers)
    selection = Selection({"logits": 5.0, "hidden-cosine": 1.0}, labels=2.0)
    cosine = HiddenCosine(student, teacher, pairs, by_token=True)
    return Preset([Logits(temperature=tau), cosine], [Stage(1.0, selection)], recipe=DISTILBERT)


def rkd(student: ModelDims, teachers: Sequence[ModelDims]) -> Preset:
    """CE + 25 smooth L1 of distances + 50 smooth L1 of angles, between the last layers' [CLS] vectors of a batch.

    References:
        Park et al., Relational Knowledge Distillation, 2019, https://arxiv.org/abs/1904.05068
    """
    (teacher,) = teachers
    selection = Selection({"rkd-distance": 25.0, "rkd-angle": 50.0})
    return Preset([RkdDistance(student, teacher), RkdAngle(student, teacher)], [Stage(1.0, selection)])


METHODS = methods(
    {
        "kd": kd,
        "pkd-skip": pkd,
        "pkd-last": partial(pkd, layers="last"),
        "tinybert": tinybert,
        "minilm": minilm,
        "minilmv2": minilmv2,
        "distilbert": distilbert,
        "rkd": rkd,
    }
)
