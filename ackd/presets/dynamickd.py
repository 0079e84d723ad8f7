"""Dynamic knowledge distillation: the student's uncertainty selects examples, teachers and losses.

    u_i = -sum_c p_ic log p_ic / log C,  p_i = softmax(z_S(x_i)) of the current forward pass

Weights depend only on the current batch; nothing is annealed, and by default no gradient passes through them. The
published students start as the first layers of a pre-trained model (`--student-init first`). Their learning rate rises
over the share `lr_warmup` of the steps: a tenth, or a twentieth for `dynamickd-teacher`. There is no weight decay.

References:
    Li et al., Dynamic Knowledge Distillation for Pre-trained Language Models, EMNLP 2021,
    https://arxiv.org/abs/2109.11295; code: https://github.com/lancopku/DynamicKD
"""

from __future__ import annotations

from collections.abc import Sequence

from ackd.errors import InputError, unknown
from ackd.knowledge import Hidden, Logits, LogitsMse, layer_map
from ackd.presets.preset import Preset, methods, of_each
from ackd.presets.uncertain import EqualTeachers, UncertainHalf, UncertainObjectives, UncertainTeachers
from ackd.stages import Stage
from ackd.types import EMBEDDINGS, Knowledge, ModelDims, Selection
from ackd.weighting.scores import TopFraction, check_uncertain
from ackd.weighting.weighting import PickedRows, Weighting

LOSSES = ("mse", "kl")
ADOPTIONS = ("hard", "soft", "instance", "average")


def dynamickd_data(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    keep: float = 0.5,
    score: str = "margin",
    train_on: str = "all",
    loss: str = "mse",
    tau: float = 5.0,
    lr_warmup: float = 0.1,
) -> Preset:
    """CE over all examples + D over the share `keep` that `score` ranks first; only these reach a teacher.

    D is the mean squared error of the raw outputs over examples and classes, or tau^2 KL (batchmean). With `train_on`
    "kept" the labels also count only on the picked examples, which costs a student pass to score the batch.
    """
    pick = TopFraction(score, keep)
    if pick.uncertain:
        check_uncertain(student.classes)
    _check("train_on", train_on, ("all", "kept"))
    losses = _outputs(loss, tau, len(teachers))
    stages = [Stage(1.0, Selection.of(*(one.name for one in losses)))]
    if train_on == "kept":
        return Preset(losses, stages, example_filter=pick, recipe=_recipe(lr_warmup), gives_way=True)
    return Preset(losses, stages, PickedRows(pick), recipe=_recipe(lr_warmup), gives_way=True)


def dynamickd_teacher(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    adoption: str = "hard",
    loss: str = "mse",
    tau: float = 5.0,
    attached: bool = False,
    lr_warmup: float = 0.05,
) -> Preset:
    """CE + w_small D(small teacher) + w_large D(large teacher); the small one is named first.

    `hard` gives the uncertain half of each batch only to the small teacher and the rest only to the large one. `soft`
    weights them by u and 1 - u with the mean u of the batch, `instance` each example by its own u. `average` is the
    static control with weights of 1/2.
    """
    _check("adoption", adoption, ADOPTIONS)
    if adoption != "average":
        check_uncertain(student.classes, "average the teachers (--options adoption=average)")
    if attached and adoption not in ("soft", "instance"):
        raise InputError(f"no gradient can pass through the weights of adoption={adoption}: leave attached away")
    rules: dict[str, Weighting] = {
        "hard": UncertainHalf(),
        "soft": UncertainTeachers(attached=attached),
        "instance": UncertainTeachers(each=True, attached=attached),
        "average": EqualTeachers(),
    }
    losses = _outputs(loss, tau, len(teachers))
    stages = [Stage(1.0, Selection.of(*(one.name for one in losses)))]
    return Preset(losses, stages, rules[adoption], recipe=_recipe(lr_warmup), gives_way=True)


def dynamickd_objective(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    weights: str = "uncertainty",
    reverse: bool = False,
    attached: bool = False,
    normalise: bool = True,
    loss: str = "mse",
    tau: float = 5.0,
    beta: float = 1.0,
    layers: str = "uniform",
    lr_warmup: float = 0.1,
) -> Preset:
    """CE + mean_i (1 - u_i) D_i + beta mean_i u_i R_i; R_i sums the distances of hidden states over layers.

    The matched layers include the embeddings. Each distance is a mean over valid tokens and width. States are divided
    by their lengths unless `normalise` is off. With static weights both losses count 1.
    """
    _check("weights", weights, ("uncertainty", "static"))
    if weights == "uncertainty":
        check_uncertain(student.classes, "keep the weights static (--options weights=static)")
    elif reverse or attached:
        given = "reverse" if reverse else "attached"
        raise InputError(f"static weights do not depend on uncertainty: leave {given} away")
    (teacher,) = teachers
    pairs = ((EMBEDDINGS, EMBEDDINGS), *layer_map(layers, student.layers, teacher.layers))
    (outputs,) = _outputs(loss, tau, 1)
    hidden = Hidden(student, teacher, pairs, normalise=normalise)
    selection = Selection({outputs.name: 1.0, hidden.name: beta * len(pairs)})
    weighting = UncertainObjectives(reverse, attached) if weights == "uncertainty" else None
    return Preset([outputs, hidden], [Stage(1.0, selection)], weighting, recipe=_recipe(lr_warmup))


def _outputs(loss: str, tau: float, teachers: int) -> list[Knowledge]:
    """D for each teacher."""
    _check("loss", loss, LOSSES)
    return of_each(teachers, lambda: LogitsMse() if loss == "mse" else Logits(temperature=tau))


def _recipe(warmup: float) -> dict[str, float]:
    """The scripts set a warm-up; the rest is the default of the Hugging Face Trainer, without weight decay."""
    return {"warmup": warmup, "weight_decay": 0.0}


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise unknown(what, value, known)


METHODS = methods(
    {
        "dynamickd-data": dynamickd_data,
        "dynamickd-teacher": dynamickd_teacher,
        "dynamickd-objective": dynamickd_objective,
    }
)
