"""Each preset against its paper's formula, written out here from the models' own outputs, reduction included.

Two things are as `ackd.presets` says and not as in the papers: padding is left out, and a learned projection takes the
student's states to the teacher's width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import Tensor, nn
from torch.nn import functional as F

import ackd
from ackd import knowledge, models
from ackd.agents.rules import Staged
from ackd.costs import CostTracker
from ackd.envs.distillation import DistillationEnv
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.mdp.action_spaces import Stages
from ackd.models import Meter, Model, shape_of
from ackd.presets import Preset, preset, static
from ackd.stages import stage_at
from ackd.teachers import ModelTeacher
from ackd.training.distillation import Distillation
from ackd.training.distiller import Distiller
from ackd.training.student import Student
from ackd.types import Batch, ModelDims, Selection
from tests.learned import weights

LENGTHS = (7, 4, 6)
CLASSES, HEADS = 3, 2


def make(layers: int, width: int, seed: int) -> Model:
    config = models.small_config(50, CLASSES, layers=layers, width=width, heads=HEADS)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.from_config(config)().eval()


@dataclass
class Plain:
    """A model's outputs by its own library, and what papers compute from them, in float64."""

    logits: Tensor  # [B, C]
    states: list[Tensor]  # [B, n, d], the embeddings first
    inputs: list[dict[str, Tensor]]  # of each layer's attention: query, key, value, [B, n, d]

    @classmethod
    def of(cls, model: Model, batch: Batch) -> Plain:
        taken: list[dict[str, Tensor]] = [{} for _ in model.bert.encoder.layer]
        handles = [
            getattr(layer.attention.self, name).register_forward_hook(
                lambda _, __, output, i=i, name=name: taken[i].__setitem__(name, output.double())
            )
            for i, layer in enumerate(model.bert.encoder.layer)
            for name in ("query", "key", "value")
        ]
        with torch.no_grad():
            answer = model(**batch.inputs, output_hidden_states=True)
        for handle in handles:
            handle.remove()
        return cls(answer.logits.double(), [state.double() for state in answer.hidden_states], taken)

    def split(self, layer: int, name: str, example: int, heads: int) -> Tensor:
        """[A, n, d / A] of one example, without its padding."""
        rows = self.inputs[layer][name][example, : LENGTHS[example]]
        return rows.reshape(len(rows), heads, -1).transpose(0, 1)

    def scores(self, layer: int, example: int) -> Tensor:
        """[A, n, n], before softmax."""
        query, key = (self.split(layer, name, example, HEADS) for name in ("query", "key"))
        scores: Tensor = query @ key.mT / query.shape[-1] ** 0.5
        return scores

    def relation(self, layer: int, name: str, example: int, heads: int) -> Tensor:
        """[A, n, n], log softmax(X X^T / sqrt(d / A))."""
        rows = self.split(layer, name, example, heads)
        scores: Tensor = rows @ rows.mT / rows.shape[-1] ** 0.5
        return scores.log_softmax(-1)


def over_examples(value: Callable[[int], Tensor]) -> Tensor:
    return torch.stack([value(i) for i in range(len(LENGTHS))]).mean()


def rows_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities, mean over heads and rows."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).mean()


def kl(student: Plain, teacher: Plain, tau: float, reduction: str) -> Tensor:
    p, q = (teacher.logits / tau).softmax(-1), (student.logits / tau).log_softmax(-1)
    divergence = F.kl_div(q, p, reduction="none")
    return divergence.sum() / len(q) if reduction == "batchmean" else divergence.mean()


def cross_entropy(student: Plain, labels: Tensor) -> Tensor:
    return F.cross_entropy(student.logits, labels)


Formula = Callable[[Plain, Plain, Tensor, Callable[[Tensor], Tensor]], Tensor]


def kd(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    return 0.5 * cross_entropy(s, y) + 0.5 * 4.0**2 * kl(s, t, 4.0, "batchmean")


def pkd(pairs: list[tuple[int, int]]) -> Formula:
    def formula(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        ours = F.normalize(torch.stack([project(s.states[i + 1][:, 0]) for i, _ in pairs], 1), dim=-1)
        theirs = F.normalize(torch.stack([t.states[j + 1][:, 0] for _, j in pairs], 1), dim=-1)
        soft = 10.0**2 * kl(s, t, 10.0, "elementmean")
        return 0.3 * cross_entropy(s, y) + 0.7 * soft + 500.0 * F.mse_loss(ours, theirs)

    return formula


def tinybert_layers(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    step = 2  # k = 6 teacher layers / 3 student layers

    def attention(b: int) -> Tensor:
        return torch.stack([F.mse_loss(s.scores(i, b), t.scores(i * step + step - 1, b)) for i in range(3)]).sum()

    def hidden(b: int) -> Tensor:
        pairs = [(project(s.states[i])[b, : LENGTHS[b]], t.states[i * step][b, : LENGTHS[b]]) for i in range(4)]
        return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).sum()

    return over_examples(attention) + over_examples(hidden)


def tinybert_prediction(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    return -(t.logits.softmax(-1) * s.logits.log_softmax(-1)).mean()


def minilm(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    attention = over_examples(lambda b: rows_kl(s.scores(2, b).log_softmax(-1), t.scores(5, b).log_softmax(-1)))
    values = over_examples(lambda b: rows_kl(s.relation(2, "value", b, HEADS), t.relation(5, "value", b, HEADS)))
    return attention + values


def minilmv2(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    heads = math.gcd(s.states[0].shape[-1], t.states[0].shape[-1])  # the most that divide both widths, up to 48

    def relations(b: int) -> Tensor:
        kinds = ("query", "key", "value")
        return torch.stack([rows_kl(s.relation(2, x, b, heads), t.relation(5, x, b, heads)) for x in kinds]).sum()

    return over_examples(relations)


def distilbert(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    ours, theirs = project(s.states[-1]), t.states[-1]
    one, other = (torch.cat([states[b, :length] for b, length in enumerate(LENGTHS)]) for states in (ours, theirs))
    cosine = F.cosine_embedding_loss(one, other, torch.ones(sum(LENGTHS)))
    return 5 * 2.0**2 * kl(s, t, 2.0, "batchmean") + 2 * cross_entropy(s, y) + cosine


def rkd(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    def distances(f: Tensor) -> Tensor:
        d = torch.tensor([[float((a - b).norm()) for b in f] for a in f], dtype=torch.float64)
        return d / d[d > 0].mean()

    def angles(f: Tensor) -> Tensor:
        size = len(f)
        result = torch.zeros(size, size, size, dtype=torch.float64)
        for i, j, k in itertools.product(range(size), repeat=3):
            if i not in (j, k):
                result[i, j, k] = F.cosine_similarity(f[j] - f[i], f[k] - f[i], dim=0)
        return result

    ours, theirs = s.states[-1][:, 0], t.states[-1][:, 0]
    return (
        cross_entropy(s, y)
        + 25 * F.smooth_l1_loss(distances(ours), distances(theirs))
        + 50 * F.smooth_l1_loss(angles(ours), angles(theirs))
    )


def labels_only(s: Plain, t: Plain, y: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    return cross_entropy(s, y)


# the share of the budget and the loss of each stage, for a student of 3 layers and a teacher of 6
FORMULAS: dict[str, list[tuple[float, Formula]]] = {
    "kd": [(1.0, kd)],
    "pkd-skip": [(1.0, pkd([(0, 1), (1, 3)]))],
    "pkd-last": [(1.0, pkd([(0, 3), (1, 4)]))],
    "tinybert": [(10 / 13, tinybert_layers), (3 / 13, tinybert_prediction)],
    "minilm": [(0.5, minilm), (0.5, labels_only)],
    "minilmv2": [(0.5, minilmv2), (0.5, labels_only)],
    "distilbert": [(1.0, distilbert)],
    "rkd": [(1.0, rkd)],
}


PROJECTED = ("pkd-skip", "pkd-last", "tinybert", "distilbert")


def test_every_preset_has_a_formula() -> None:
    assert set(FORMULAS) == {one.name for one in static.METHODS}  # other files have tests of their own


@pytest.mark.parametrize("width", [16, 12])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_preset_is_its_papers_formula(name: str, width: int, make_batch: Callable[..., Batch]) -> None:
    teacher, batch = make(6, 16, seed=1), make_batch(LENGTHS, classes=CLASSES, extra=2)
    expected = Plain.of(teacher, batch)
    for place, (share, formula) in enumerate(FORMULAS[name]):
        model = make(3, width, seed=2)
        plain = Plain.of(model, batch)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = preset(name, shape_of(model), [shape_of(teacher)])
        stage = made.stages[place]
        assert len(made.stages) == len(FORMULAS[name])
        assert stage.share == pytest.approx(share)
        linear = [module for one in made.knowledge for module in one.modules() if isinstance(module, nn.Linear)]
        assert len(linear) <= 1
        assert bool(linear) == (name == "tinybert" or (width != 16 and name in PROJECTED))
        project = linear[0].double() if linear else nn.Identity()
        with torch.no_grad():
            value = formula(plain, expected, batch.labels, project)
        if linear:
            linear[0].float()
        student = Student(model, made.knowledge, steps=10)
        distiller = Distiller(
            student, [ModelTeacher(teacher)], made.knowledge, meter=Meter(model), costs=CostTracker(), scale_steps=0
        )
        report = distiller.step([batch], stage.selection)
        assert report.loss.item() == pytest.approx(float(value), rel=1e-4), place


def test_tinyberts_second_stage_learns_the_gold_scores_of_a_regression() -> None:
    """As `task_distill.py` does: the mean squared error between the student's outputs and the labels."""
    made = preset("tinybert", shape(2, classes=1), [shape(4, classes=1)])
    first, second = made.stages
    assert (first.selection.labels, second.selection) == (0.0, Selection())
    assert {one.name for one in made.knowledge} == {"hidden", "attention"}
    assert preset("tinybert", shape(2), [shape(4)]).stages[1].selection.labels == 0.0


def test_tinyberts_projection_can_be_left_out_at_equal_widths() -> None:
    for project in (True, False):
        hidden, *_ = preset("tinybert", shape(2), [shape(4)], project=project).knowledge
        assert bool(list(hidden.parameters())) == project


def shape(layers: int, width: int = 16, heads: int = 2, classes: int = 2) -> ModelDims:
    return ModelDims(layers, width, heads, classes, 50)


def test_an_option_that_is_mistyped_is_told_what_is_near() -> None:
    with pytest.raises(InputError, match=r"unknown option of the preset 'pkd-skip' 'alfa': did you mean 'alpha'\?"):
        preset("pkd-skip", shape(2), [shape(4)], alfa=1.0)


@pytest.mark.parametrize(
    ("name", "student", "layers", "part", "remedy"),
    [
        ("tinybert", shape(2, heads=4), None, "'attention' compares them head by head", "as many heads"),
        ("minilm", shape(2, heads=4), None, "compares them head by head", "as many heads"),
        ("minilm", shape(2, width=12, heads=3), None, "compares them head by head", "as many heads"),
        ("pkd-skip", shape(1), None, "leaves out the student's last layer", "use 'uniform'"),
        ("pkd-last", shape(1), None, "leaves out the student's last layer", "use 'uniform'"),
        ("tinybert", shape(6), None, "needs a teacher at least as deep", "name the pairs instead"),
        ("pkd-skip", shape(2), "0:9", "teacher layer 9", "0 to 3"),
        ("kd", shape(2), "uniform", "matches no layers", "leave the layer map away"),
        ("rkd", shape(2), "0:1", "matches no layers", "leave the layer map away"),
    ],
)
def test_a_pair_that_cannot_satisfy_one_is_told_which_part_and_what_to_do(
    name: str, student: ModelDims, layers: str | None, part: str, remedy: str
) -> None:
    with pytest.raises(InputError) as refused:
        preset(name, student, [shape(4)], layers=layers)
    said = str(refused.value)
    assert repr(name) in said
    assert part in said
    assert remedy in said
    assert "\n" not in said


def test_an_unknown_preset_is_told_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"unknown preset 'tinybrt': did you mean 'tinybert'\? \(known: .*distilbert, .*kd, "
    ):
        preset("tinybrt", shape(2), [shape(4)])


def test_a_layer_map_of_ones_own_is_used() -> None:
    (loss,) = (
        one
        for one in preset("tinybert", shape(2), [shape(4)], layers="0:0,1:0,1:3").knowledge
        if isinstance(one, knowledge.Attention)
    )
    assert loss.pairs == ((0, 0), (1, 0), (1, 3))
    assert preset("minilm", shape(2), [shape(4)], layers="1:2").knowledge[0].teacher_needs.attention == {2}


def test_stages_come_when_their_share_is_used() -> None:
    stages = preset("tinybert", shape(2), [shape(4)]).stages
    assert [stage_at(stages, done / 13) for done in range(13)] == [0] * 10 + [1] * 3
    assert [stage_at(stages, float(np.float32(done / 13))) for done in range(13)] == [0] * 10 + [1] * 3
    assert stage_at(stages, 1.0) == 1
    assert stage_at(preset("kd", shape(2), [shape(4)]).stages, 1.0) == 0


def staged(name: str, **changes: Any) -> Distillation:
    """The tiny pair under a preset."""
    parts = tiny(student_width=8).distillation
    (teacher,) = parts.teachers

    def made() -> Preset:
        return preset(name, shape_of(parts.student.model), [teacher.shape])

    return Distillation(
        parts.task,
        [teacher],
        parts._make_student,
        lambda: made().knowledge,
        stages=made().stages,
        **{"steps": 13, "batch_size": 8, "lr": 1e-3, "scale_steps": 0, **changes},
    )


def environment(name: str) -> DistillationEnv:
    distillation = staged(name)
    choice = Stages([stage.selection for stage in distillation.stages])
    return DistillationEnv(distillation, decision_interval=2, decisions=None, choice=choice)


@pytest.mark.parametrize("name", ["kd", "tinybert", "minilm"])
def test_a_preset_through_the_environment_equals_the_plain_loop_bit_for_bit(name: str) -> None:
    env, chosen = environment(name), []
    policy = Staged(env.distillation.stages)
    observation, _ = env.reset(seed=4)
    ended = False
    while not ended:
        action, _ = policy.predict(observation)
        observation, _, ended, _, info = env.step(action)
        chosen.append(info["action/effective"])
    plain = staged(name)
    seen: list[Selection] = []

    def select(done: int) -> Selection:
        seen.append(plain.staged(done))
        return seen[-1]

    ackd.distill(plain, select, seed=4, interval=2)
    assert ["+".join(one.chosen) or "labels" for one in seen] == chosen
    assert torch.equal(weights(env.distillation), weights(plain))
    expected = {"kd": ["logits"] * 7, "minilm": ["attention-kl+values"] * 4 + ["labels"] * 3}
    assert chosen == expected.get(name, ["hidden+attention"] * 5 + ["logits-soft-ce"] * 2)


@pytest.mark.parametrize("name", ["kd", "tinybert"])
def test_both_checkers_pass_and_episodes_replay(name: str) -> None:
    env = environment(name)
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    env.reset(seed=1)
    for action in [0, 1, 0] if name == "tinybert" else [0, 0]:
        assert env.action_space.contains(np.array(action))
        env.step(np.array(action))
    record = env.record()
    assert env.validate(record)
    assert not env.validate(type(record)(record.seed, record.actions, [r + 0.1 for r in record.rewards]))
