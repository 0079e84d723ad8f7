"""Published methods whose weights or selections are learned."""

from __future__ import annotations

from collections.abc import Sequence

from ackd.knowledge import Fsp, Hidden, Logits, last_pair, layer_map
from ackd.presets.preset import Preset, methods
from ackd.stages import Stage
from ackd.types import Knowledge, ModelDims, Selection
from ackd.weighting.mtkd_rl import PUBLISHED, MtkdRl
from ackd.weighting.rl_kd import Credit, Empty, Rewarding, RlKd, Share, State
from ackd.weighting.teacher_weights import Learning, check_teachers


def rl_kd(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    alpha: float = 0.5,
    tau: float = 10.0,
    reward: int = 1,
    gamma: float = 0.5,
    credit: Credit = "next",
    empty: Empty = "none",
    share: Share = "selected",
    baseline: bool = True,
    state: State = "cls",
    warmup: float = 0.3,
    every: int = 1,
    policy_lr: float = 1e-3,
) -> Preset:
    """(1 - alpha) CE + alpha sum_k w_k tau^2 KL(p_k || p_S), teachers drawn for each example; see `RlKd`."""
    losses = _outputs(len(teachers), tau)
    weighting = RlKd(
        len(teachers),
        student.classes,
        width=student.width,
        layer=student.layers - 1,
        rewarding=Rewarding(reward, gamma, credit, empty, share, baseline, state),
        learning=Learning(policy_lr, every, warmup),
    )
    selection = Selection({one.name: alpha for one in losses}, labels=1 - alpha)
    return Preset(losses, [Stage(1.0, selection)], weighting)


def mtkd_rl(
    student: ModelDims,
    teachers: Sequence[ModelDims],
    *,
    alpha: float = 1.0,
    tau: float = 4.0,
    beta: float = 5.0,
    dynamic: bool = False,
    hidden: int = 128,
    warmup: float = PUBLISHED.warmup,
    every: int = PUBLISHED.every,
    policy_lr: float = PUBLISHED.rate,
    layers: str = "last",
) -> Preset:
    """CE + alpha sum_k w_k tau^2 KL(p_k || p_S) + beta sum_k v_k MSE of last hidden states, projected; see `MtkdRl`.

    With `beta` 0, no features are distilled or read.
    """
    check_teachers(len(teachers), student.classes)
    losses = _outputs(len(teachers), tau)
    weights = {one.name: alpha for one in losses}
    for place, teacher in enumerate(teachers if beta else ()):
        pairs = last_pair(layers, student.layers, teacher.layers)
        losses.append(_named(Hidden(student, teacher, pairs, projected=True), place))
        weights[losses[-1].name] = beta
    weighting = MtkdRl(
        len(teachers),
        student.classes,
        widths=[one.width for one in teachers] if beta else (),
        beta=beta,
        dynamic=dynamic,
        hidden=hidden,
        learning=Learning(policy_lr, every, warmup),
    )
    return Preset(losses, [Stage(1.0, Selection(weights))], weighting)


def ksm(student: ModelDims, teachers: Sequence[ModelDims], *, tau: float = 4.0, layers: str = "uniform") -> Preset:
    """The labels, and an agent's selection of logits (ResK), hidden states (FeaK) and their flow (RelK)."""
    (teacher,) = teachers
    pairs = layer_map(layers, student.layers, teacher.layers)
    return Preset([Logits(temperature=tau), Hidden(student, teacher, pairs), Fsp(student, teacher, pairs)])


def _outputs(teachers: int, tau: float) -> list[Knowledge]:
    return [_named(Logits(temperature=tau), place) for place in range(teachers)]


def _named(loss: Knowledge, place: int) -> Knowledge:
    """Assigns a loss to one of several teachers and names it as usual: `logits@1` for the first."""
    loss.name += f"@{place + 1}"
    loss.teacher = place
    return loss


METHODS = methods(
    {
        "rl-kd": rl_kd,
        "mtkd-rl": mtkd_rl,
        "ksm": ksm,
    }
)
