"""Each method of loss balancing against its paper's equations, computed another way; then what all of them keep to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ackd.agents.balancing import BALANCERS, balancer, famo, gradnorm, uncertainty
from ackd.agents.named import NAMED, named
from ackd.agents.policy import Observations, Policy, State
from ackd.agents.rules import RULES
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.experiments.policies import arm
from ackd.mdp.action_spaces import weights_of
from ackd.mdp.observations import FEATURES, GLOBALS

K, WIDTH = 4, 6  # the labels and three types, in actions of six entries
MASK = np.array([1] * K + [0] * (WIDTH - K), dtype=np.int8)
SEEING = ("gradnorm", "gradient-similarity")  # what reads gradients
SIZED = ("magnitude", "rlw", "dwa", "famo", "gradnorm")  # whose weights have mean 1
STEP = 2 ** (1 / 512) - 1  # how far a weight may lie from the one that was asked for
LEAST, MOST = 2**-2.5, 8.0
rng = np.random.default_rng(0)
# [phases, K] losses relative to their first, in the range that training has
LOSSES = np.exp(np.vstack([np.zeros(K), np.cumsum(rng.normal(-0.15, 0.15, (7, K)), 0)]))
COSINES, NORMS = rng.uniform(-1, 1, LOSSES.shape), rng.uniform(-0.7, 0.7, LOSSES.shape)


def observe(
    losses: NDArray[np.float64],
    done: int,
    *,
    cosines: NDArray[np.float64] = COSINES,
    norms: NDArray[np.float64] = NORMS,
    selected: NDArray[np.float64] | float = 0.5,
    mask: NDArray[np.int8] = MASK,
) -> Observations:
    """After so many phases of a run of as many phases as there are losses: [phases, K], or [phases, n, K]."""
    phases, *rows = losses.shape[:-1]
    overview = np.zeros((*rows, len(GLOBALS)), dtype=np.float32)
    features = np.zeros((*rows, WIDTH, len(FEATURES)), dtype=np.float32)
    features[..., 0, FEATURES.index("is_labels")] = 1
    if done:
        overview[..., GLOBALS.index("progress")] = done / phases
        given: dict[str, Any] = {
            "loss": np.log(losses[done - 1]),
            "slope": np.log(losses[done - 1] / losses[max(done - 2, 0)]),
            "selected": selected,
            "cosine": cosines[(done - 1) % len(cosines)],
            "norm": norms[(done - 1) % len(norms)],
        }
        for name, values in given.items():
            features[..., :K, FEATURES.index(name)] = values
    return {
        "globals": overview,
        "knowledge": features.reshape(*rows, -1),
        "mask": np.broadcast_to(mask, (*rows, WIDTH)).copy(),
    }


def decided(policy: Policy, losses: NDArray[np.float64] = LOSSES, **seen: Any) -> NDArray[np.float64]:
    """The weights in each decision of a run, [decisions, ..., K]; the first comes before anything is learned."""
    state: State | None = None
    made = []
    for done in range(len(losses)):
        action, state = policy.predict(observe(losses, done, **seen), state)
        assert action.dtype == np.float32
        made.append(weights_of(action)[..., :K])
    return np.array(made)


def close(found: NDArray[np.float64], expected: Any) -> None:
    np.testing.assert_allclose(found, np.clip(np.array(expected), LEAST, MOST), rtol=2 * STEP)


def test_magnitude_brings_the_losses_to_one_size() -> None:
    found = decided(balancer("magnitude"))
    sizes = found[1:] * LOSSES[:-1]
    np.testing.assert_allclose(sizes, np.broadcast_to(sizes.mean(1, keepdims=True), sizes.shape), rtol=2 * STEP)
    np.testing.assert_allclose(found.mean(1), 1, rtol=STEP)


def test_uncertainty_is_what_torch_learns() -> None:
    s = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([s], lr=0.1)
    expected = [[1.0] * K]
    for losses in torch.from_numpy(LOSSES[:-1]):
        for _ in range(10):
            optimizer.zero_grad()
            (torch.exp(-s) * losses + s).sum().backward()
            optimizer.step()
        expected.append(torch.exp(-s).detach().tolist())
    close(decided(uncertainty(rate=0.1, steps=10)), expected)


def test_uncertainty_ends_at_one_over_the_loss() -> None:
    still = np.vstack([np.ones(K), np.tile([0.3, 0.5, 1.0, 2.0], (30, 1))])
    np.testing.assert_allclose(decided(uncertainty(), still)[-1], 1 / still[-1], rtol=0.01)


def test_dwa_is_the_papers() -> None:
    expected = [[1.0] * K, [1.0] * K]
    for before, last in pairwise(LOSSES[:-1]):
        exponentials = [np.exp(last[k] / before[k] / 2.0) for k in range(K)]
        expected.append([K * one / sum(exponentials) for one in exponentials])
    close(decided(balancer("dwa")), expected)


def test_famo_is_the_papers() -> None:
    """By autograd through the softmax, as in the paper's section 3.2 and the authors' program."""
    xi = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    expected, losses = [[1.0] * K], torch.from_numpy(LOSSES)
    for t in range(len(LOSSES) - 1):
        if t:
            delta = losses[t - 1].log() - losses[t].log()
            (gradient,) = torch.autograd.grad(torch.softmax(xi, 0), xi, grad_outputs=delta)
            with torch.no_grad():
                xi -= 5.0 * (gradient + 0.001 * xi)
        shares = (torch.softmax(xi, 0) / losses[t]).detach()
        expected.append((K * shares / shares.sum()).tolist())
    close(decided(famo(rate=5.0, decay=0.001)), expected)


def test_famos_logits_sum_to_zero() -> None:
    policy, state = famo(decay=0.0), None
    for done in range(len(LOSSES)):
        _, state = policy.predict(observe(LOSSES, done), state)
        assert state is not None
        assert abs(state[0].sum()) < 1e-9
    assert state is not None
    assert np.abs(state[0]).max() > 0.1


def test_gradnorm_is_what_torch_learns() -> None:
    """Its loss by autograd with respect to the weights alone, the target held, as in the paper's algorithm 1."""
    weights, expected = torch.ones(K, dtype=torch.float64), [[1.0] * K]
    for losses, logs in zip(torch.from_numpy(LOSSES[:-1]), torch.from_numpy(NORMS[:-1]), strict=True):
        for _ in range(4):
            weights = weights.clone().requires_grad_()
            sizes = weights * logs.exp()
            target = (sizes.mean() * (losses / losses.mean()) ** 1.5).detach()
            (gradient,) = torch.autograd.grad((sizes - target).abs().sum(), weights)
            moved = (weights - 0.02 * gradient).detach()
            weights = K * moved / moved.sum()
        expected.append(weights.tolist())
    close(decided(gradnorm(alpha=1.5, rate=0.02, steps=4)), expected)


def test_gradnorm_brings_gradients_to_one_size() -> None:
    still, logs = np.ones((60, K)), np.tile([-0.5, 0.0, 0.4, 0.7], (60, 1))
    sizes = decided(gradnorm(rate=0.01), still, norms=logs)[-1] * np.exp(logs[-1])
    np.testing.assert_allclose(sizes, sizes.mean(), rtol=0.06)


def test_types_count_as_far_as_they_pull_with_the_labels() -> None:
    cosines = np.array([[0.0, 0.6, 0.05, -0.3]])
    policy, losses = balancer("gradient-similarity"), np.ones((2, K))
    assert weights_of(policy.predict(observe(losses, 0))[0])[:K].tolist() == [1, 1, 1, 1]
    close(weights_of(policy.predict(observe(losses, 1, cosines=cosines))[0])[:3], [1, 0.6, LEAST])
    assert policy.predict(observe(losses, 1, cosines=cosines))[0][3] == 0
    dropped = observe(losses, 1, cosines=cosines, selected=np.array([0.5, 0.5, 0.5, 0.0]))
    close(weights_of(policy.predict(dropped)[0])[:K], [1, 0.6, LEAST, LEAST])  # taken up to be measured


@pytest.mark.parametrize("name", SEEING)
def test_what_reads_gradients_says_so_where_there_are_none(name: str) -> None:
    nothing, policy = np.zeros_like(LOSSES), balancer(name)
    policy.predict(observe(LOSSES, 0, cosines=nothing, norms=nothing))
    with pytest.raises(InputError, match=f"the policy {name} reads the gradients of the losses, which this training"):
        policy.predict(observe(LOSSES, 1, cosines=nothing, norms=nothing))
    alone = np.array([0.5, 0.0, 0.0, 0.0])  # labels alone: there was nothing to compare
    policy.predict(observe(LOSSES, 1, cosines=nothing, norms=nothing, selected=alone))


def test_random_weights_are_a_softmax_of_normal_numbers() -> None:
    drawn = weights_of(balancer("rlw", seed=3).predict(observe(np.ones((1, 4000, K)), 0))[0])[:, :K]
    inside = drawn[((drawn > 1.01 * LEAST) & (drawn < 0.99 * MOST)).all(1)]
    assert len(inside) > 1500
    everything = torch.softmax(torch.randn(200_000, K, generator=torch.Generator().manual_seed(0)), 1).numpy() * K
    expected = everything[(everything > 1.01 * LEAST).all(1)]
    quantiles = [0.1, 0.5, 0.9]
    found = np.quantile(np.log(inside), quantiles, axis=0)
    np.testing.assert_allclose(found, np.quantile(np.log(expected), quantiles, axis=0), atol=0.08)
    np.testing.assert_allclose(inside.mean(1), 1, rtol=STEP)


def test_random_weights_are_drawn_anew_and_by_the_seed() -> None:
    first, again, other = (decided(balancer("rlw", seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any(1).all()
    assert len(np.unique(first, axis=0)) == len(LOSSES)


def test_random_weights_of_one_row_do_not_depend_on_the_others() -> None:
    alone = decided(balancer("rlw", seed=1), LOSSES[:, None])
    among = decided(balancer("rlw", seed=1), np.repeat(LOSSES[:, None], 3, 1), cosines=COSINES[:, None])
    assert (alone[:, 0] == among[:, 0]).all()
    assert (among[:, 0] != among[:, 1]).any()


@pytest.mark.parametrize("name", SIZED)
def test_weights_have_mean_one(name: str) -> None:
    mild = np.exp(np.log(LOSSES) / 4)
    means = decided(balancer(name), mild, norms=NORMS / 4).mean(1)
    np.testing.assert_allclose(means, 1, rtol=STEP if name != "rlw" else 0.3)  # few draws leave the range


@pytest.mark.parametrize("name", [name for name in BALANCERS if name != "rlw"])
def test_many_environments_are_as_many_single_ones(name: str) -> None:
    """In different places of their runs, one of which begins anew on the way, with or without a state passed back."""
    losses = np.exp(np.random.default_rng(1).normal(-0.3, 0.3, (9, 3, K)))
    cosines, norms = (np.random.default_rng(seed).uniform(-1, 1, losses.shape) for seed in (2, 3))
    indices = [[0, 1, 2, 3, 4, 5], [2, 3, 0, 1, 2, 3], [3, 3, 4, 5, 0, 1]]
    for passed in (True, False):
        together, alone = balancer(name), [balancer(name) for _ in indices]
        state, states = None, [None] * 3  # type: tuple[State | None, list[State | None]]
        for at in range(6):
            rows = [
                observe(losses[:, i], place[at], cosines=cosines[:, i], norms=norms[:, i])
                for i, place in enumerate(indices)
            ]
            action, state = together.predict(
                {key: np.stack([row[key] for row in rows]) for key in rows[0]}, state if passed else None
            )
            for i, row in enumerate(rows):
                mine, states[i] = alone[i].predict(row, states[i] if passed else None)
                assert (action[i] == mine).all()


@pytest.mark.parametrize("name", ["uncertainty", "famo", "gradnorm"])
def test_an_episode_begins_where_it_is_said_to(name: str) -> None:
    policy, fresh = balancer(name), balancer(name)
    for done in range(5):
        _, state = policy.predict(observe(LOSSES, done))
    seen = observe(LOSSES, 5)
    went_on, _ = policy.predict(seen, state, np.array([False]))
    begun, _ = policy.predict(seen, state, np.array([True]))
    assert (begun == fresh.predict(seen)[0]).all()
    assert (begun != went_on).any()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(BALANCERS)),
    bits=st.lists(st.integers(0, 1), min_size=WIDTH, max_size=WIDTH),
    extreme=st.lists(st.sampled_from([-10.0, -1.0, 0.0, 0.5, 10.0]), min_size=K, max_size=K),
)
def test_masked_terms_get_nothing_and_the_others_are_kept(name: str, bits: Sequence[int], extreme: list[float]) -> None:
    """Whatever the losses are; and what is masked has no part in the others' weights."""
    mask, losses = np.array(bits, dtype=np.int8), np.exp(np.array([[0.0] * K, extreme, extreme[::-1], extreme]))
    policy, other = balancer(name, seed=1), balancer(name, seed=1)
    state = theirs = None
    for done in range(4):
        seen = observe(losses, done, mask=mask, cosines=np.abs(COSINES))
        action, state = policy.predict(seen, state)
        weights = weights_of(action)
        assert np.isfinite(action).all()
        assert not weights[mask == 0].any()
        assert (weights[mask == 1] >= LEAST * (1 - STEP)).all()
        assert (weights <= MOST).all()
        features = seen["knowledge"].reshape(WIDTH, -1)
        features[mask == 0] = 7.0  # nobody's
        again, theirs = other.predict(seen | {"knowledge": features.reshape(-1)}, theirs)
        assert (again == action).all()


def test_every_name_makes_a_policy() -> None:
    assert set(NAMED) == {*RULES, *BALANCERS}
    for name in BALANCERS:
        one = arm(name, ("logits", "hidden"))
        assert one.settings == {"choice": "weights", "decisions": None}
    assert arm("all", ("logits", "hidden")).settings == {"choice": "subset"}
    with pytest.raises(InputError, match="unknown policy 'magnitud'"):
        balancer("magnitud")
    with pytest.raises(InputError, match="unknown policy 'fmo'"):
        named("fmo", ("labels", "logits"))


@pytest.mark.parametrize("name", [name for name in BALANCERS if name not in SEEING])
def test_a_run_and_a_cohort_are_balanced(name: str) -> None:
    """Real training: a decision each phase, every term kept, alone and beside others."""
    env = tiny(knowledge=("logits", "hidden"), steps=10, choice="weights")
    assert env.decisions == 5

    policy, state, over = balancer(name, seed=2), None, False
    observation, _ = env.reset(seed=4)
    while not over:
        action, state = policy.predict(observation, state)
        observation, _, over, _, _ = env.step(action)
    cohort, together = CohortEnv([env], 2), balancer(name, seed=2)
    observations: Any = cohort.reset()
    state = None
    alone: list[Policy] = [balancer(name), balancer(name)]
    for _ in range(cohort.decisions - 1):
        actions, state = together.predict(observations, state)
        for i, one in enumerate(alone if name != "rlw" else ()):
            assert (one.predict({key: rows[i] for key, rows in observations.items()})[0] == actions[i]).all()
        observations, _, _, _ = cohort.step(actions)
    for episode in (env.episode, *(one.episode for one in cohort.trajectories)):
        assert episode is not None
        first, *later = [{"labels": phase.selection.labels, **phase.selection.weights} for phase in episode.phases]
        assert len(later) >= 3
        assert first == dict.fromkeys(("labels", "logits", "hidden"), 1.0) or name == "rlw"
        assert all(phase.keys() == first.keys() for phase in later)
        assert any(phase != first for phase in later)
