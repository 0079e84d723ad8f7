"""Mutual learning against a plain loop over two models, and what keeps its students apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ackd import models
from ackd.costs import CostTracker
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.federation.mutual import MutualLearning
from ackd.models import StudentFactory
from ackd.numerics.streams import RngStreams
from ackd.tasks import Task
from ackd.training.recipe import Recipe
from ackd.training.replay_log import ReplayLog
from ackd.training.sampler import LengthGroupedSampler
from ackd.types import OutputRequest

STEPS, SIZE, LR = 6, 8, 2e-3


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny().distillation.task


def factory(task: Task, *, dropout: float = 0.0, width: int = 8) -> StudentFactory:
    vocabulary = 1 + max(int(split.inputs["input_ids"].max()) for split in (task.train, task.reward))
    config = models.small_config(vocabulary, task.spec.num_labels, layers=1, width=width, heads=2, dropout=dropout)
    make_model = models.from_config(config)
    return lambda: make_model().double()  # in float32, Adam blows up the rounding of gradients that are 0


def make(task: Task, *, count: int = 2, dropout: float = 0.0, peers_drop: bool = True) -> MutualLearning:
    students = [factory(task, dropout=dropout)] * count
    return MutualLearning(task, students, steps=STEPS, batch_size=SIZE, lr=LR, dropout=peers_drop)


def weights(learning: MutualLearning) -> list[Tensor]:
    return [torch.cat([p.detach().flatten() for p in one.student.model.parameters()]) for one in learning.peers]


def plainly(task: Task, learning: MutualLearning, seed: int) -> list[Tensor]:
    """The paper's algorithm, written out: the weights after all steps."""
    learning.reset(seed)
    peers = [copy.deepcopy(one.student.model).train() for one in learning.peers]
    optimizers = []
    for peer in peers:
        matrices = [p for p in peer.parameters() if p.ndim > 1]
        vectors = [p for p in peer.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        optimizers.append(torch.optim.AdamW(groups, lr=LR))
    order = LengthGroupedSampler(task.train.lengths, SIZE, RngStreams(seed).order)
    for step in range(STEPS):
        batch = task.train.batch(order.next())
        for k, (peer, optimizer) in enumerate(zip(peers, optimizers, strict=True)):
            logits = peer(**batch.inputs).logits
            loss = F.cross_entropy(logits, batch.labels)
            for j, other in enumerate(peers):
                if j != k:
                    with torch.no_grad():
                        p = other(**batch.inputs).logits.softmax(-1)
                    loss = loss + F.kl_div(logits.log_softmax(-1), p, reduction="batchmean") / (len(peers) - 1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = LR * Recipe().rate(step, STEPS)
            optimizer.step()
    return [torch.cat([p.detach().flatten() for p in peer.parameters()]) for peer in peers]


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_the_plain_loop(task: Task, count: int) -> None:
    learning = make(task, count=count)
    expected = plainly(task, learning, 5)
    learning.reset(5)
    start = weights(learning)
    reports = learning.advance(STEPS)
    assert [len(those) for those in reports] == [count] * STEPS
    for ours, theirs, before in zip(weights(learning), expected, start, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert (ours - before).abs().max() > 1e-3
    assert reports[0][0].loss == pytest.approx(reports[0][0].labels + sum(reports[0][0].losses.values()) / (count - 1))


def test_peers_matter(task: Task) -> None:
    learning = make(task)
    learning.reset(0)
    learning.advance(STEPS)
    together = weights(learning)[0]
    learning.reset(0)
    alone = learning.peers[0]
    alone.advance(replace(learning.selections[0], weights={}), STEPS)
    assert not torch.allclose(weights(learning)[0], together, atol=1e-4)


def test_a_peer_answers_as_it_now_is(task: Task) -> None:
    learning = make(task)
    learning.reset(0)
    first, second = learning.peers
    (peer,) = second.teachers  # the first student, as the second sees it
    batch, needs = task.train.batch(np.arange(4)), OutputRequest(logits=True)
    before, name = peer(batch, needs, CostTracker()).logits, peer.fingerprint
    learning.advance(1)
    after = peer(batch, needs, costs := CostTracker()).logits
    assert before is not None
    assert after is not None
    assert not after.requires_grad
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, first.student.model(**batch.inputs).logits.detach())
    assert peer.fingerprint != name
    assert peer.shape == models.shape_of(first.student.model)
    assert costs.teacher_queries == 4
    assert costs.flops["teacher"] == peer.flops(needs, *batch.shape) > 0


@pytest.mark.parametrize("dropout", [True, False])
def test_a_peer_drops_as_in_training_or_not_at_all(task: Task, dropout: bool) -> None:
    learning = make(task, dropout=0.3, peers_drop=dropout)
    (peer,) = learning.peers[0].teachers
    batch = task.train.batch(np.arange(4))
    one, other = (peer(batch, OutputRequest(logits=True), CostTracker()).logits for _ in range(2))
    assert one is not None
    assert other is not None
    assert torch.equal(one, other) != dropout
    learning.reset(3)
    learning.advance(2)
    first = weights(learning)
    torch.rand(7)  # nobody else's draws matter
    learning.reset(3)
    learning.advance(2)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(learning), strict=True))


def test_no_two_peers_begin_alike_in_any_run(task: Task) -> None:
    """Runs are compared by their seeds: those of two neighbours must not share a student."""
    learning, alone = make(task, count=3), make(task).peers[0]
    starts = []
    for seed in range(10):
        learning.reset(seed)
        starts += [tuple(start.tolist()) for start in weights(learning)]
        alone.reset(seed)
        assert learning.peers[0].counts.seeds == (seed,)
        first = torch.cat([p.detach().flatten() for p in alone.student.model.parameters()])
        assert torch.equal(weights(learning)[0], first)
    assert len(set(starts)) == 30


def test_it_goes_on_from_its_journal(task: Task, tmp_path: Path) -> None:
    whole = make(task, dropout=0.1)
    whole.reset(2)
    answers = [whole.advance(1) for _ in range(STEPS)]
    before = whole.costs.teacher_queries, whole.costs.flops["reward"]
    eval_results = whole.evaluate(task.reward, "reward")
    first = whole.costs.flops["reward"]
    assert whole.evaluate(task.reward, "reward") == eval_results  # peers change, so nobody is compared with them
    assert whole.costs.flops["reward"] == 2 * first
    assert before == (whole.costs.teacher_queries, 0.0)
    assert {one.divergence for one in eval_results} == {0.0}
    killed = make(task, dropout=0.1)
    killed.replay(ReplayLog(tmp_path, seconds=0))
    killed.reset(2)
    for _ in range(3):
        killed.advance(1)
    resumed = make(task, dropout=0.1)
    resumed.replay(ReplayLog(tmp_path, seconds=0))
    resumed.reset(2)
    assert [resumed.advance(1) for _ in range(STEPS)] == answers
    assert resumed.evaluate(task.reward, "reward") == eval_results
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert resumed.costs.steps == 2 * STEPS


def test_students_that_would_stay_equal_are_refused(task: Task, make_model: Callable[..., models.Model]) -> None:
    model = factory(task)()
    same = [lambda: copy.deepcopy(model)] * 2
    with pytest.raises(InputError, match="they would stay equal"):
        MutualLearning(task, same, steps=2)
    with pytest.raises(InputError, match="1 student cannot learn from each other"):
        MutualLearning(task, same[:1], steps=2)
    MutualLearning(task, [*same[:1], factory(task)], steps=2)
    with_dropout = factory(task, dropout=0.1)()
    MutualLearning(task, [lambda: copy.deepcopy(with_dropout)] * 2, steps=2)


def test_students_may_differ_in_size(task: Task) -> None:
    learning = MutualLearning(task, [factory(task), factory(task, width=16)], steps=2, batch_size=1)
    learning.reset(0)
    assert all(report.finite for reports in learning.advance(5) for report in reports)
    assert learning.steps_done == 2
    with pytest.raises(ValueError, match="no step to take"):
        learning.advance(1)


def test_a_divergence_says_so(task: Task) -> None:
    learning = MutualLearning(task, [factory(task)] * 2, steps=4, batch_size=4, lr=1e30)
    learning.reset(0)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        learning.advance(4)
