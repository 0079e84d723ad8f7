"""Learned teacher weights against their formulas in numpy, the averages they must equal, and a case they must learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ackd import distill
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.knowledge import label_loss
from ackd.models import shape_of
from ackd.presets import Preset, preset
from ackd.presets.uncertain import EqualTeachers
from ackd.training.distillation import Distillation
from ackd.types import LABELS, Batch, Knowledge, ModelDims, Outputs, Selection
from ackd.weighting.mtkd_rl import MtkdRl
from ackd.weighting.rl_kd import Rewarding, RlKd, log_chance
from ackd.weighting.scores import TopFraction
from ackd.weighting.teacher_weights import Learning, MeanWeights, joined
from ackd.weighting.weighting import Answers, PickedRows, Together, Weighting
from tests.answered import WIDTH, Array, answers, known, numbers, softmax, terms

NOW = Learning(rate=0.01, warmup=0.0)


@pytest.mark.parametrize("weighting", [MtkdRl(2, 2), RlKd(2, 2, width=WIDTH, layer=0)])
def test_a_saved_rate_that_is_not_ones_own_is_refused(weighting: MtkdRl | RlKd) -> None:
    state = weighting.state_dict()
    state["network"]["optimizer"]["param_groups"][0]["lr"] = 1e300
    with pytest.raises(ValueError, match="is that of another training"):
        weighting.load_state_dict(state)


def policy(teachers: int = 2, classes: int = 3, *, seed: int = 0, **rewarding: Any) -> RlKd:
    torch.manual_seed(seed)
    return RlKd(teachers, classes, width=WIDTH, layer=0, rewarding=Rewarding(**rewarding), learning=NOW)


def weighed(weighting: Weighting, given: Answers, losses: Sequence[Knowledge]) -> Array:
    weights = weighting.weigh(given, losses, {})
    assert not any(one.requires_grad for one in weights.values())
    return np.stack([numbers(weights[one.name]) for one in losses], 1)


@pytest.mark.parametrize("share", ["selected", "all"])
@pytest.mark.parametrize("empty", ["none", "all"])
def test_selected_teachers_share_the_weight_and_an_empty_selection_is_as_asked(share: str, empty: str) -> None:
    losses = terms(3)
    given = answers(losses, size=200)
    drawn = weighed(policy(3, share="all"), given, losses) * 3
    assert set(np.unique(drawn.round(6))) == {0.0, 1.0}
    assert 0 < (drawn.sum(1) == 0).mean() < 0.5
    if empty == "all":
        drawn[drawn.sum(1) == 0] = 1
    parts = 3 if share == "all" else np.maximum(drawn.sum(1, keepdims=True), 1)
    assert weighed(policy(3, share=share, empty=empty), given, losses) == pytest.approx(drawn / parts, abs=1e-6)


@pytest.mark.parametrize("reward", [1, 2, 3])
@pytest.mark.parametrize("credit", ["next", "visit"])
@pytest.mark.parametrize("state", ["cls", "outputs"])
def test_the_gradient_is_that_of_the_log_chance_times_the_reward(reward: int, credit: str, state: str) -> None:
    losses = terms()
    weighting = policy(reward=reward, gamma=0.3, credit=credit, state=state, baseline=False)
    linear = weighting.network.layers
    assert isinstance(linear, torch.nn.Linear)
    weight, bias = numbers(linear.weight), numbers(linear.bias)
    before, after = answers(losses, seed=1), answers(losses, seed=2, ids=[5, 9, 0, 2, 11, 1])
    drawn = (weighed(weighting, before, losses) > 0).astype(float)
    assert linear.weight.grad is None  # nothing is known yet of what that earns
    later = weighed(weighting, after, losses)

    ours, error, _, _, gaps = known(after, losses)
    rewards = -error
    if reward > 1:
        rewards = rewards - (later * gaps).sum(1)
    if reward > 2:
        rewards = 0.3 * rewards + 0.7 * (ours.argmax(1) == after.batch.labels.numpy()).mean()
    logits, _, theirs, errors, _ = known(before, losses)
    example = numbers(before.student.cls[0]) if state == "cls" else logits
    states = np.concatenate([example, softmax(theirs).reshape(6, -1), errors], 1)
    if credit == "visit":  # of those examples that came up again, each its own
        again = [5, 0, 2, 1]
        rewards, states, drawn = rewards[[0, 2, 3, 5]], states[again], drawn[again]
    else:
        rewards = np.full(6, rewards.mean())
    score = drawn - 1 / (1 + np.exp(-(states @ weight.T + bias)))  # of a Bernoulli's log chance, by its logit
    expected = -(score * rewards[:, None]).T @ states / len(states)
    assert numbers(linear.weight.grad) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert numbers(linear.bias.grad) == pytest.approx(-(score * rewards[:, None]).mean(0), rel=1e-4, abs=1e-6)


def test_a_batchs_reward_is_no_part_of_what_it_is_compared_with() -> None:
    """Its gradient has the reward less the mean of those before it."""
    losses, weighting = terms(), policy()
    linear = weighting.network.layers
    assert isinstance(linear, torch.nn.Linear)
    weighed(weighting, answers(losses, seed=0), losses)
    drawn = (weighed(weighting, answers(losses, seed=1), losses) > 0).astype(float)
    weight, bias = numbers(linear.weight), numbers(linear.bias)
    weighed(weighting, answers(losses, seed=2), losses)
    logits_then = answers(losses, seed=1)
    _, _, theirs, errors, _ = known(logits_then, losses)
    states = np.concatenate([numbers(logits_then.student.cls[0]), softmax(theirs).reshape(6, -1), errors], 1)
    before, own = (-known(answers(losses, seed=seed), losses)[1].mean() for seed in (1, 2))
    score = drawn - 1 / (1 + np.exp(-(states @ weight.T + bias)))
    assert numbers(linear.bias.grad) == pytest.approx(-score.mean(0) * (own - before), rel=1e-4, abs=1e-6)


def test_the_baseline_is_a_running_mean_of_rewards() -> None:
    losses, weighting = terms(), policy()
    means = []
    for seed in range(4):
        given = answers(losses, seed=seed)
        weighting.weigh(given, losses, {})
        means.append(-known(given, losses)[1].mean())
    expected = means[1]
    for mean in means[1:]:
        expected = 0.9 * expected + 0.1 * mean
    assert float(weighting.state_dict()["baseline"]) == pytest.approx(expected, rel=1e-5)


@given(
    z=st.lists(st.floats(-20, 20), min_size=1, max_size=4),
    bits=st.lists(st.integers(0, 1), min_size=4, max_size=4),
)
def test_log_chance_is_that_of_independent_draws(z: list[float], bits: list[int]) -> None:
    a = np.array(bits[: len(z)])
    p = 1 / (1 + np.exp(-np.array(z)))
    expected = np.log(np.where(a, p, 1 - p)).sum()
    assert float(log_chance(torch.tensor([z], dtype=torch.float64), torch.tensor(a[None]))) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("make", [policy, lambda: MtkdRl(2, 3, learning=NOW), lambda: policy(credit="visit")])
def test_saturated_answers_and_a_batch_of_one_leave_numbers(make: Callable[[], Weighting], size: int) -> None:
    losses, weighting = terms(), make()
    for seed in range(6):
        found = weighed(weighting, answers(losses, size=size, seed=seed, scale=1e4), losses)
        assert np.isfinite(found).all()
    assert all(torch.isfinite(one).all() for one in weighting.learned().values())


def test_a_pick_and_learned_weights_go_together() -> None:
    losses = terms()
    given = answers(losses, size=8)
    rows = torch.tensor([1, 4, 6])
    part = Answers(
        given.batch,
        given.student,
        {name: one.rows(rows, 1) for name, one in given.teachers.items()},
        {name: one if name == LABELS else one[rows] for name, one in given.losses.items()},
        0.5,
    )
    both = Together(PickedRows(TopFraction("random", 0.4)), policy(state="cls"))
    weights = both.weigh(part, losses, dict.fromkeys(("logits@1", "logits@2"), rows))
    assert {len(one) for one in weights.values()} == {3}
    nothing = dict.fromkeys(("logits@1", "logits@2"), rows[:0])
    assert policy().weigh(part, losses, nothing) == {}
    with pytest.raises(InputError, match="compare every teacher on the same examples"):
        policy().weigh(part, losses, {"logits@1": rows})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: policy(1), "one teacher has nobody to be weighed against"),
        (lambda: policy(2, 1), "as for a regression"),
        (lambda: MtkdRl(2, 1), "as for a regression"),
        (lambda: MtkdRl(2, 2, hidden=0), "a network of width 0"),
        (lambda: Rewarding(reward=4), "there is no reward 4"),
        (lambda: Rewarding(gamma=1.5), "gamma is 1.5"),
        (lambda: Rewarding(credit="nxt"), "did you mean 'next'"),  # type: ignore[arg-type]
        (lambda: Learning(every=0), "an update after 0 batches"),
        (lambda: Learning(warmup=1.2), "a warm-up of 1.2"),
        (lambda: Learning(rate=float("nan")), "learning rate is nan"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_language_model_is_refused() -> None:
    losses = terms()
    given = answers(losses)
    assert given.student.logits is not None
    tokens = Outputs(given.student.logits[:, None])
    with pytest.raises(InputError, match="a language model has none"):
        policy().weigh(Answers(given.batch, tokens, given.teachers, given.losses), losses, {})


def parts(name: str, **options: Any) -> tuple[Callable[[], Preset], Any]:
    """A method of two equal teachers for the tiny pair, and the pair."""
    pair = tiny().distillation
    shapes = [shape_of(pair.student.model), pair.teachers[0].shape]
    return lambda: preset(name, shapes[0], [shapes[1]] * 2, **options), pair


def training(name: str, weighting: Callable[[], Weighting | None] | None = None, **options: Any) -> Distillation:
    made, pair = parts(name, **options)
    return Distillation(
        pair.task,
        [pair.teachers[0]] * 2,
        pair._make_student,
        lambda: made().knowledge,
        stages=made().stages,
        make_weighting=weighting or (lambda: made().weighting),
        steps=8,
        batch_size=8,
        lr=1e-3,
        scale_steps=0,
    )


def trained(distillation: Distillation) -> Tensor:
    distill(distillation, distillation.staged, seed=3, interval=4)
    return torch.cat([p.detach().flatten() for p in distillation.student.parameters])


def always(teachers: int = 2) -> RlKd:
    """A policy that is not learned, and takes every teacher."""
    shape = shape_of(tiny().distillation.student.model)
    learning = Learning(rate=0.0, warmup=0.0)
    made = RlKd(teachers, shape.classes, width=shape.width, layer=shape.layers - 1, learning=learning)
    with torch.no_grad():
        made.network.layers.bias.fill_(1e4)  # type: ignore[operator]
    return made


def test_a_fixed_policy_is_the_average_bit_for_bit() -> None:
    """Dropout included: what the policy draws is no part of the student's randomness."""
    average = trained(training("rl-kd", EqualTeachers))
    assert torch.equal(trained(training("rl-kd", warmup=1.0)), average)
    assert torch.equal(trained(training("rl-kd", always)), average)
    assert not torch.equal(trained(training("rl-kd", warmup=0.0)), average)
    plain = trained(training("mtkd-rl", lambda: None))
    assert torch.equal(trained(training("mtkd-rl", warmup=1.0)), plain)
    assert not torch.equal(trained(training("mtkd-rl", warmup=0.0)), plain)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rl-kd", {"warmup": 0.2, "every": 2}),
        ("rl-kd", {"warmup": 0.2, "credit": "visit", "reward": 3, "state": "outputs"}),
        ("mtkd-rl", {"warmup": 0.2, "every": 3}),
        ("mtkd-rl", {"warmup": 0.2, "beta": 0.0}),
    ],
)
def test_a_run_goes_on_from_its_state_and_a_fork_leaves_it_alone(name: str, options: dict[str, Any]) -> None:
    whole = training(name, **options)
    expected = trained(whole)
    half = training(name, **options)
    half.reset(3)
    half.advance(half.staged(0), 5)
    state = half.state_dict()
    half.fork().advance(half.staged(5), 3)
    other = training(name, **options)
    other.load_state_dict(state)
    for one in (half, other):
        one.advance(one.staged(5), 3)
        assert torch.equal(torch.cat([p.detach().flatten() for p in one.student.parameters]), expected)
        ours, theirs = one.distiller.weighting, whole.distiller.weighting
        assert ours is not None
        assert theirs is not None
        mine, its = ours.learned(), theirs.learned()
        assert all(torch.equal(mine[key], its[key]) for key in its)
        assert its["mean_weights"].sum() > 0


def test_decisions_that_were_saved_elsewhere_are_learned_from_here() -> None:
    """A state read on the host goes on beside a student on a GPU; here `meta` stands for that."""
    here, there = torch.ones(2, 3), torch.ones(4, 3, device="meta")
    states, rewards = joined([(here, here[:, 0]), (there, there[:, 0])], torch.device("meta"))
    assert (states.shape, states.device.type) == ((6, 3), "meta")
    assert (rewards.shape, rewards.device.type) == ((6,), "meta")
    policy = RlKd(2, 2, width=3, layer=0, rewarding=Rewarding(credit="visit"))
    policy._tell([0, 1], here, here[:, :2], here[:, 0])
    policy._tell([1, 7], there[:2], there[:2, :2], there[:2, 0])
    policy._tell([0, 7], there[:2], there[:2, :2], there[:2, 0])  # one that was saved, and one that is new
    assert [len(part) for part in policy._phase[-1]] == [2, 2, 2]
    assert {part.device.type for part in policy._phase[-1]} == {"meta"}


def test_one_teacher_and_regression_are_refused_by_name() -> None:
    shape, numbers_only = ModelDims(2, 16, 2, 2, 50), ModelDims(2, 16, 2, 1, 50)
    for name in ("rl-kd", "mtkd-rl"):
        with pytest.raises(InputError, match=f"'{name}' takes at least 2 teachers, and 1 was named"):
            preset(name, shape, [shape])
        with pytest.raises(InputError, match="as for a regression"):
            preset(name, numbers_only, [numbers_only] * 2)


def learned_where_each_is_right(make: Callable[[], Weighting], seed: int) -> tuple[float, float]:
    """A linear student, and two teachers each of whom is right where the other is wrong, by a sign in its input.

    Its cross-entropy on examples that it has not seen, and the mean weight of the right teacher at the end.
    """
    count, size, steps = 64, 16, 400
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * count, WIDTH, generator=generator)
    first = x[:, 0] > 0
    y = (x[:, 1] + x[:, 2] > 0).long()
    right = F.one_hot(y, 2) * 4.0 - 2.0
    theirs = [torch.where(first[:, None] == sign, right, -right) for sign in (True, False)]
    torch.manual_seed(seed)
    weighting, weight = make(), torch.zeros(WIDTH, 2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    losses, shares = terms(), []
    for step in range(steps):
        if step % (count // size) == 0:
            order = torch.randperm(count, generator=generator)
        ids = order[step % (count // size) * size :][:size]
        batch = Batch(ids, {"attention_mask": torch.ones(size, 1, dtype=torch.int64)}, y[ids])
        student = Outputs(x[ids] @ weight, cls={0: x[ids]})
        taught = {one.name: Outputs(theirs[one.teacher][ids]) for one in losses}
        assert student.logits is not None
        each = {one.name: one(student, taught[one.name], batch) for one in losses}
        each[LABELS] = label_loss(student.logits, batch.labels)
        weights = weighting.weigh(Answers(batch, student, taught, each, step / steps), losses, {})
        distilled = sum((weights.get(one.name, torch.ones(size)) * each[one.name]).mean() for one in losses)
        optimizer.zero_grad()
        (0.2 * each[LABELS].mean() + 0.8 * distilled).backward()
        optimizer.step()
        if weights and step >= steps - 40:
            shares.append(float(torch.where(first[ids], weights["logits@1"], weights["logits@2"]).mean()))
    with torch.no_grad():
        return float(F.cross_entropy(x[count:] @ weight, y[count:])), sum(shares) / len(shares)


@pytest.mark.parametrize("make", [policy, lambda: MtkdRl(2, 3, learning=NOW)])
def test_deciding_and_learning_are_counted(make: Callable[[], RlKd | MtkdRl]) -> None:
    weighting, losses, given = make(), terms(), answers(terms())
    counter = FlopCounterMode(display=False)
    with counter:
        for _ in range(2):
            weighting.weigh(given, losses, {})
    spent = given.costs.flops["agent"]
    # states need no gradient, which the count of a backward pass as two forward passes has for the first layer too
    assert 0.7 < counter.get_total_flops() / spent <= 1.0
    assert given.costs.seconds["agent"] > 0.0


@pytest.mark.parametrize("credit", ["next", "visit"])
def test_learned_selections_find_who_is_right_where(credit: str) -> None:
    def make(rate: float) -> RlKd:
        rewarding = Rewarding(credit=credit, empty="all")  # type: ignore[arg-type]
        return RlKd(2, 2, width=WIDTH, layer=0, rewarding=rewarding, learning=Learning(rate, warmup=0.1))

    for seed in (0, 1):
        average, even = learned_where_each_is_right(EqualTeachers, seed)
        frozen, _ = learned_where_each_is_right(lambda: make(0.0), seed)
        learned, share = learned_where_each_is_right(lambda: make(0.03), seed)
        assert even == pytest.approx(0.5)
        assert share > 0.65
        assert learned < 0.8 * average
        assert learned < frozen


def test_blended_weights_find_who_is_right_where() -> None:
    average, _ = learned_where_each_is_right(EqualTeachers, 0)
    blended, share = learned_where_each_is_right(lambda: MtkdRl(2, 2, learning=Learning(warmup=0.1)), 0)
    assert share > 0.55
    assert blended < average


def test_the_distilled_loss_is_the_weighted_sum() -> None:
    """Through the distiller: what is minimised is (1 - alpha) CE + alpha mean_i sum_k w_ik KD_ik."""
    seen: list[tuple[Answers, Any]] = []

    class Watched(RlKd):
        def weigh(self, answers: Answers, terms: Any, rows: Any) -> Any:
            weights = super().weigh(answers, terms, rows)
            seen.append((answers, weights))
            return weights

    shape = shape_of(tiny().distillation.student.model)
    run = training("rl-kd", lambda: Watched(2, 2, width=shape.width, layer=shape.layers - 1, learning=NOW), alpha=0.7)
    run.reset(0)
    report = run.advance(Selection({"logits@1": 0.7, "logits@2": 0.7}, labels=0.3), 1)
    (given, weights), *_ = seen
    assert given.progress == 0.0
    kd = np.sum([numbers(weights[name]) * numbers(given.losses[name]) for name in weights], 0).mean()
    assert report.loss == pytest.approx(0.3 * numbers(given.losses[LABELS]).mean() + 0.7 * kd, rel=1e-5)


def test_the_mean_weight_is_over_all_examples() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.5, 0.25], [0.0, 0.5]]), torch.tensor([[0.5, 1.0]])
    mean = MeanWeights(2)
    assert mean.value().tolist() == [0.0, 0.0]
    mean.add(first)
    mean.add(second)
    assert mean.value().tolist() == [0.5, 0.4375]
