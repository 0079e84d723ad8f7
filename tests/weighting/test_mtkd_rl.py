"""Weights blended from a network and two rules, against the published code's formulas written anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ackd.knowledge import Hidden
from ackd.presets import preset
from ackd.types import LABELS, Knowledge, ModelDims
from ackd.weighting.mtkd_rl import PUBLISHED, Blend, MtkdRl, standardised
from ackd.weighting.teacher_weights import Learning
from ackd.weighting.weighting import Answers
from tests.answered import WIDTH, Array, answers, known, numbers, softmax, terms

NOW = Learning(rate=0.1, every=1, warmup=0.0)
SHAPE = ModelDims(2, WIDTH, 1, 3, 50)


def with_features(teachers: int = 2) -> list[Knowledge]:
    """The outputs of each teacher, and its last hidden states behind a projection."""
    torch.manual_seed(5)
    features: list[Knowledge] = []
    for place in range(teachers):
        features.append(Hidden(SHAPE, SHAPE, ((0, 1),), projected=True, name=f"hidden@{place + 1}"))
        features[-1].teacher = place
    return [*terms(teachers), *features]


def made(teachers: int = 2, *, features: bool = True, learning: Learning = NOW, **options: Any) -> MtkdRl:
    torch.manual_seed(1)
    return MtkdRl(teachers, 3, widths=[WIDTH] * teachers if features else (), learning=learning, **options)


def cosines(given: Answers, features: Sequence[Knowledge]) -> Array:
    """[R, K], of first tokens."""
    columns = []
    for one in features:
        assert isinstance(one, Hidden)
        projection = one.projection
        assert isinstance(projection, torch.nn.Linear)
        ours = numbers(given.student.hidden[0])[:, 0] @ numbers(projection.weight).T + numbers(projection.bias)
        theirs = numbers(given.teachers[one.name].hidden[1])[:, 0]
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        columns.append((ours * theirs).sum(1) / lengths)
    return np.stack(columns, 1)


def rewarded(lost: Array) -> Array:
    """Brought to mean 0 and deviation 1, and cut."""
    apart: Array = -(lost - lost.mean()) / lost.std(ddof=1)
    return apart.clip(0, 1)


def expected_weights(own: Tensor, errors: Array, gap: Array) -> Array:
    """The mean of the network's and of both rules, [R, K]."""
    return np.asarray((numbers(own.softmax(-1)) + (1 - softmax(errors)) / (errors.shape[1] - 1) + softmax(gap)) / 3)


def heads(weighting: MtkdRl, given: Answers, losses: Sequence[Knowledge]) -> Tensor:
    """What the network says before the softmax, [R, 2, K]: CE, KL and cos, then outputs and first tokens' vectors."""
    _, _, theirs, errors, gaps = known(given, losses[:2])
    vectors = [numbers(given.teachers[one.name].hidden[1])[:, 0] for one in losses[2:]]
    state = np.concatenate([errors, gaps, cosines(given, losses[2:]), theirs.reshape(len(errors), -1), *vectors], 1)
    blend = weighting.network.layers
    assert isinstance(blend, Blend)
    assert blend.stem.bias is None
    inner = torch.as_tensor(state) @ blend.stem.weight.double().T
    return (inner.relu() @ blend.heads.weight.double().T + blend.heads.bias.double()).unflatten(1, (2, 2))


def test_weights_are_the_mean_of_network_and_rules_for_outputs_and_for_features() -> None:
    losses, weighting = with_features(), made(learning=Learning(0.1, 1000, 0.0))
    given = answers(losses)
    _, _, _, errors, gaps = known(given, losses[:2])
    own = heads(weighting, given, losses)
    found = weighting.weigh(given, losses, {})
    outputs = np.stack([numbers(found[one.name]) for one in losses[:2]], 1)
    features = np.stack([numbers(found[one.name]) for one in losses[2:]], 1)
    assert outputs == pytest.approx(expected_weights(own[:, 0], errors, gaps), abs=1e-5)
    assert features == pytest.approx(expected_weights(own[:, 1], errors, cosines(given, losses[2:])), abs=1e-5)
    assert outputs.sum(1) == pytest.approx(np.ones(6), abs=1e-5)


def test_the_more_a_teachers_feature_is_like_the_students_the_more_it_counts() -> None:
    losses, weighting = with_features(), made(learning=Learning(0.1, 1000, 0.0))
    blend = weighting.network.layers
    assert isinstance(blend, Blend)
    torch.nn.init.zeros_(blend.heads.weight)
    torch.nn.init.zeros_(blend.heads.bias)
    given = answers(losses, size=50)
    found = weighting.weigh(given, losses, {})
    alike = cosines(given, losses[2:])
    errors = known(given, losses[:2])[3]
    trust = (1 - softmax(errors))[:, 0] / 3
    first = numbers(found["hidden@1"]) - trust
    assert (np.argsort(first) == np.argsort(alike[:, 0] - alike[:, 1])).all()


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_the_update_is_the_rewarded_cross_entropy_of_the_blended_weights_with_one(beta: float) -> None:
    losses, weighting = with_features(), made(beta=beta)
    given = answers(losses)
    _, error, _, errors, gaps = known(given, losses[:2])
    own = heads(weighting, given, losses)
    apart = np.stack([numbers(given.losses[one.name]) for one in losses[2:]], 1)
    rules = torch.as_tensor(np.stack([softmax(gaps), softmax(cosines(given, losses[2:]))], 1))
    trust = torch.as_tensor(1 - softmax(errors))[:, None]
    blended = (own.softmax(-1) + trust + rules) / 3
    taken = numbers(blended)
    rewards = rewarded(error + (taken[:, 0] * gaps).sum(1) + beta * (taken[:, 1] * apart).sum(1))
    weight = torch.as_tensor(rewards)[:, None].expand(-1, 2)
    losses_of = [F.binary_cross_entropy(one, torch.ones_like(one), weight) for one in blended.unbind(1)]
    blend = weighting.network.layers
    assert isinstance(blend, Blend)
    expected = torch.autograd.grad(losses_of[0] + losses_of[1], [blend.heads.bias, blend.heads.weight])
    before = blend.heads.bias.detach().clone()
    weighting.weigh(given, losses, {})
    for parameter, gradient in zip((blend.heads.bias, blend.heads.weight), expected, strict=True):
        assert numbers(parameter.grad) == pytest.approx(numbers(gradient), rel=1e-4, abs=1e-6)
    assert numbers(blend.heads.bias) == pytest.approx(numbers(before - 0.1 * expected[0]), abs=1e-6)  # plain descent


def test_waiting_batches_are_learned_from_one_by_one_when_they_are_enough_or_an_epoch_is_over() -> None:
    losses, weighting = terms(), made(features=False, learning=Learning(0.1, 3, 0.0))
    waiting, starts = [], [0, 6, 12, 18, 0, 6]  # the examples of each batch, from these on
    for place, start in enumerate(starts):
        ids = [start + i for i in range(6)]
        weighting.weigh(answers(losses, seed=place, ids=ids), losses, {})
        waiting.append(len(weighting.state_dict()["phase"]))
    assert waiting == [1, 2, 0, 1, 1, 2]


def test_an_update_is_a_step_for_each_batch_that_waits() -> None:
    losses = terms()
    weighting, kept = (made(features=False, learning=Learning(0.1, every, 0.0)) for every in (2, 9))
    for place in range(2):
        for one in (weighting, kept):
            one.weigh(answers(losses, seed=place, ids=range(6 * place, 6 * place + 6)), losses, {})
    blend = kept.network.layers
    for state, rewards in kept.state_dict()["phase"]:
        (loss,) = (
            F.binary_cross_entropy(one, torch.ones_like(one), rewards[:, None].expand_as(one))
            for one in blend(state).unbind(1)
        )
        parameters = [one for one in blend.parameters() if one.requires_grad]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.1 * gradient
    for name, value in kept.learned().items():
        assert numbers(weighting.learned()[name]) == pytest.approx(numbers(value), abs=1e-6)


def test_the_network_undoes_what_the_rules_tell_apart() -> None:
    """-log w falls most where w is small: where examples are rewarded, learning brings their weights together."""
    losses, apart = terms(), []
    given = answers(losses, size=6)
    _, error, _, _, gaps = known(given, losses)
    rewarded_ones = torch.as_tensor(rewarded(error + gaps.mean(1)) > 0.3)
    for rate in (0.0, 0.1):
        weighting = made(features=False, learning=Learning(rate, 1, 0.0))
        for _ in range(500):
            found = weighting.weigh(given, losses, {})
        apart.append((found["logits@1"] - 0.5).abs()[rewarded_ones])
    assert len(apart[0])
    assert apart[1].max() < 0.5 * apart[0].max()


def test_learned_factors_say_how_much_network_and_rules_count() -> None:
    losses = terms()
    still, moving = made(features=False), made(features=False, dynamic=True)
    for step in range(20):
        for weighting in (still, moving):
            weighting.weigh(answers(losses, size=32, seed=step), losses, {})
    factors = [weighting.learned()["network.factors"] for weighting in (still, moving)]
    assert torch.equal(factors[0], torch.ones(1, 3))
    assert (factors[1] - 1).abs().max() > 1e-3
    given = answers(losses, seed=99)
    found = moving.weigh(given, losses, {})
    assert numbers(found["logits@1"] + found["logits@2"]) == pytest.approx(np.ones(6), abs=1e-5)


def test_while_warming_up_all_count_one_and_the_network_learns_what_that_earns() -> None:
    losses, weighting = terms(), made(features=False, learning=Learning(0.1, 1000, 0.4))
    given = answers(losses, progress=0.3)
    assert weighting.weigh(given, losses, {}) == {}
    _, error, _, _, gaps = known(given, losses)
    ((_, rewards),) = weighting.state_dict()["phase"]
    assert numbers(rewards) == pytest.approx(rewarded(error + gaps.sum(1)), abs=1e-5)


@given(rewards=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_standardised_rewards_lie_in_zero_to_one(rewards: list[float]) -> None:
    values = np.array(rewards)
    out = standardised(torch.tensor(rewards, dtype=torch.float64)).numpy()
    assert ((out >= 0) & (out <= 1)).all()
    deviation = values.std(ddof=1) if len(values) > 1 else 1.0
    expected = np.clip((values - values.mean()) / max(deviation, 1e-6), 0, 1)
    assert out == pytest.approx(expected, abs=1e-4)


def test_the_preset_is_as_the_published_script() -> None:
    """`train_student_rl.py`: --kd-T 4, --feat-weight 5, --agent-step 1000, SGD 0.1, not --dynamic."""
    chosen = preset("mtkd-rl", SHAPE, [SHAPE, SHAPE])
    (stage,) = chosen.stages
    assert stage.selection.weights == {"logits@1": 1.0, "logits@2": 1.0, "hidden@1": 5.0, "hidden@2": 5.0}
    weighting = chosen.weighting
    assert isinstance(weighting, MtkdRl)
    assert (weighting.beta, weighting.learning) == (5.0, PUBLISHED)
    assert (PUBLISHED.rate, PUBLISHED.every) == (0.1, 1000)
    assert not weighting.network.layers.factors.requires_grad
    for one in chosen.knowledge:
        if isinstance(one, Hidden):
            assert isinstance(one.projection, torch.nn.Linear)  # at equal widths too
    assert LABELS not in {one.name for one in chosen.knowledge}
