"""The toy's promises: its optimum, its bookkeeping, its seeds, and both environment checkers."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.action_spaces import LEAST_SHARE

Chooser = Callable[[int], Sequence[int]]
SUBSETS = list(itertools.product((0, 1), repeat=3))  # hidden, attention, logits
actions = st.lists(st.tuples(*[st.integers(0, 1)] * 8), min_size=10, max_size=10)


def act(bits: Sequence[int], k_max: int = 8) -> NDArray[np.int8]:
    return np.array([*bits, *[0] * (k_max - len(bits))], dtype=np.int8)


def play(env: ToyEnv, choose: Chooser, seed: int | None = None) -> float:
    env.reset(seed=seed)
    total, done, t = 0.0, False, 0
    while not done:
        _, reward, done, _, _ = env.step(act(choose(t)))
        total, t = total + reward, t + 1
    return total


def constant(bits: Sequence[int]) -> Chooser:
    return lambda t: bits


@pytest.mark.parametrize("config", [{}, {"noise": 0.05, "k_max": 5}, {"decisions": 1}, {"choice": "weights"}])
def test_passes_both_checkers(config: dict[str, Any]) -> None:
    gym.register("ToyUnderTest-v0", entry_point="ackd.envs.toy:ToyEnv", kwargs=config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # weights are from 0 to 1; stable-baselines3's policies stretch them themselves
            warnings.filterwarnings("ignore", message=".*symmetric and normalized Box action space")
            warnings.filterwarnings("ignore", message=".*action space to be between")
            check_env(gym.make("ToyUnderTest-v0").unwrapped)
            check_env_for_sb3(ToyEnv(**config))
    finally:
        del gym.registry["ToyUnderTest-v0"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cost_weight", [0.0, 0.3])
def test_optimum_is_the_best_of_all_sequences(seed: int, cost_weight: float) -> None:
    """Every sequence of 5 decisions, by the formula in the docstring and with rates drawn as it says."""
    hidden, logits = 1 + 0.05 * gym.utils.seeding.np_random(seed)[0].uniform(-1, 1, 2)
    hidden, logits = 0.4 * hidden, 0.4 * logits
    best = -np.inf
    for sequence in itertools.product(SUBSETS, repeat=5):
        r = o = 1.0
        bill = 0.0
        for h, a, g in sequence:
            n = max(h + a + g, 1)
            r, o = r * (1 - h * hidden / n), o * (1 - 0.02 - g * logits / n * (1 - r) ** 2)
            bill += cost_weight * (1 + 0.5 * h + 0.3 * a + 0.2 * g) / 2 / 5
        best = max(best, 1 - o - bill)
    assert ToyEnv(decisions=5, cost_weight=cost_weight).optimum(seed) == pytest.approx(best, abs=1e-9)


def weighted(hidden: NDArray[Any], logits: NDArray[Any], seed: int) -> NDArray[Any]:
    """Returns [n] of shares [n, decisions] of the capacity, by the formula in the docstring."""
    rates = 0.4 * (1 + 0.05 * gym.utils.seeding.np_random(seed)[0].uniform(-1, 1, 2))
    r = o = np.ones(hidden.shape[:-1])
    for h, g in zip(np.moveaxis(hidden, -1, 0), np.moveaxis(logits, -1, 0), strict=True):
        r, o = r * (1 - rates[0] * h), o * (1 - 0.02 - rates[1] * g * (1 - r) ** 2)
    return 1 - o


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decisions", [3, 6, 10])
def test_no_weights_beat_the_best_subsets(seed: int, decisions: int) -> None:
    """So the optimum over subsets is the one over weights: 20,000 random ones, and gradients from twenty starts."""
    optimum, rng = ToyEnv(decisions=decisions).optimum(seed), np.random.default_rng(seed)
    shares = rng.dirichlet([0.3] * 3, (20_000, decisions))
    assert weighted(shares[..., 0], shares[..., 1], seed).max() <= optimum + 1e-9

    def lost(logits: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """And its slope, from what all neighbours lose."""
        near = logits + 1e-8 * np.eye(len(logits) + 1, len(logits), -1)
        shares = softmax(near.reshape(-1, decisions, 3), axis=2)
        losses = -weighted(shares[..., 0], shares[..., 1], seed)
        return float(losses[0]), (losses[1:] - losses[0]) / 1e-8

    found = max(-minimize(lost, rng.normal(size=3 * decisions), jac=True).fun for _ in range(20))
    assert optimum - 2e-3 <= found <= optimum + 1e-9


@given(weights=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), seed=st.integers(0, 2**31))
def test_weights_share_the_capacity(weights: list[float], seed: int) -> None:
    env = ToyEnv(choice="type-shares", cost_weight=0.3)
    env.reset(seed=seed)
    action = np.array([*weights, *[1.0] * 5], dtype=np.float32)
    _, _, _, _, info = env.step(action)
    there = np.where(action[:3] >= LEAST_SHARE, action[:3].astype(np.float64), 0.0)
    share = there / (there.sum() or 1.0)
    expected = weighted(share[None, None, 0], share[None, None, 2], seed)
    assert info["reward/improvement"] == pytest.approx(expected[0], abs=1e-9)
    paid = sum(flops for flops, weight in zip((0.5, 0.3, 0.2), there, strict=True) if weight)
    assert info["reward/cost"] == pytest.approx(0.3 * (1 + paid) / 2 / 10)


@given(sequence=actions, seed=st.integers(0, 2**31))
def test_weights_of_0_and_1_are_subsets(sequence: list[tuple[int, ...]], seed: int) -> None:
    subsets, soft = ToyEnv(noise=0.05), ToyEnv(noise=0.05, choice="type-shares")
    assert data_equivalence(subsets.reset(seed=seed), soft.reset(seed=seed), exact=True)
    for bits in sequence:
        ours, theirs = subsets.step(act(bits)), soft.step(act(bits).astype(np.float32))
        assert data_equivalence(ours, theirs, exact=True)
    other = ToyEnv(noise=0.05, choice="type-shares")
    other.load_state_dict(json.loads(json.dumps(soft.state_dict())))
    assert other.episode == soft.episode


def test_only_switching_comes_near_the_optimum() -> None:
    """The numbers in the docstring."""
    env, seeds, rng = ToyEnv(), range(200, 220), np.random.default_rng(0)
    optimum = np.mean([env.optimum(seed) for seed in seeds])
    constants = {bits: np.mean([play(env, constant(bits), seed) for seed in seeds]) for bits in SUBSETS}
    drawn = np.mean([play(env, lambda t: rng.integers(0, 2, 3).tolist(), seed) for seed in range(300)])
    switching = np.mean([play(env, lambda t: (1, 0, 0) if t < 4 else (0, 0, 1), seed) for seed in seeds])
    assert optimum == pytest.approx(0.914, abs=0.01)
    assert max(constants, key=lambda bits: constants[bits]) == (1, 0, 1)
    assert constants[1, 0, 1] == pytest.approx(0.648, abs=0.01)
    assert constants[1, 0, 1] <= 0.75 * optimum
    assert constants[0, 0, 0] == pytest.approx(0.183, abs=0.001)
    assert drawn == pytest.approx(0.38, abs=0.03)
    assert 0.98 * optimum < switching <= optimum


@given(sequence=actions, seed=st.integers(0, 2**31), noise=st.sampled_from([0.0, 0.1]))
def test_rewards_telescope_to_the_share_of_the_gap(sequence: list[tuple[int, ...]], seed: int, noise: float) -> None:
    env = ToyEnv(noise=noise)
    total = play(env, lambda t: sequence[t], seed)
    episode = env.episode
    assert episode.start
    assert episode.eval_result
    assert episode.teacher
    assert total == pytest.approx(
        (episode.start.loss - episode.eval_result.loss) / (episode.start.loss - episode.teacher.loss), abs=1e-9
    )
    if not noise:
        assert 0.0 < total <= env.optimum(seed) + 1e-9


@given(sequence=actions, seed=st.integers(0, 2**31))
def test_any_action_is_taken_and_surplus_bits_are_dropped(sequence: list[tuple[int, ...]], seed: int) -> None:
    env = ToyEnv()
    env.reset(seed=seed)
    for t, bits in enumerate(sequence):
        observation, reward, terminated, truncated, info = env.step(act(bits))
        chosen = [name for name, bit in zip(env.knowledge, bits, strict=False) if bit]
        assert info["action/effective"] == ("+".join(chosen) or "labels")
        assert env.observation_space.contains(observation)
        assert isinstance(reward, float)
        assert terminated is (t == 9)
        assert truncated is False


def test_info_is_flat_finite_fresh_and_always_has_the_same_keys() -> None:
    env = ToyEnv(cost_weight=0.2)
    _, first = env.reset(seed=0)
    _, reward, _, _, second = env.step(act((1, 0, 1)))
    assert first.keys() == second.keys()
    assert first["action_mask"] is not second["action_mask"]
    assert second["action_mask"].tolist() == [2, 2, 2, 0, 0, 0, 0, 0]
    assert second["action_mask"].dtype == np.int8
    assert env.action_space.sample(second["action_mask"]).shape == (8,)
    assert reward == second["reward/improvement"] - second["reward/cost"] + second["reward/bonus"]
    assert second["reward/cost"] == pytest.approx(0.2 * 1.7 / 2.0 / 10)
    assert second["error/type"] == ""


def test_same_seed_same_episode_and_other_seed_another() -> None:
    env = ToyEnv(noise=0.05)
    returns = [play(env, constant((1, 0, 1)), seed) for seed in (3, 3, 4)]
    assert returns[0] == returns[1] != returns[2]
    assert play(env, constant((1, 0, 1))) != returns[2]  # a reset without a seed goes on with the stream


@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_fork_goes_on_alike_and_apart(at: int) -> None:
    env = ToyEnv(noise=0.05)
    env.reset(seed=1)
    for _ in range(at):
        env.step(act((1, 0, 0)))
    before = env.state_dict()
    fork = env.fork()
    theirs = [fork.step(act((0, 0, 1))) for _ in range(10 - at)]
    assert env.state_dict() == before
    ours = [env.step(act((0, 0, 1))) for _ in range(10 - at)]
    assert all(data_equivalence(a, b, exact=True) for a, b in zip(ours, theirs, strict=True))
    assert data_equivalence(env.reset(), fork.reset(), exact=True)  # the same stream of episodes, too


def test_the_state_survives_json() -> None:
    env, other = ToyEnv(noise=0.05), ToyEnv(noise=0.05)
    env.reset(seed=1)
    env.step(act((1, 1, 0)))
    other.load_state_dict(json.loads(json.dumps(env.state_dict())))
    assert other.episode == env.episode
    assert data_equivalence(env.step(act((0, 0, 1))), other.step(act((0, 0, 1))), exact=True)


def test_refuses_what_it_cannot_do() -> None:
    env = ToyEnv()
    with pytest.raises(ResetNeeded):
        env.step(act((1, 0, 0)))
    play(env, constant((1, 0, 0)), seed=0)
    with pytest.raises(ResetNeeded):
        env.step(act((1, 0, 0)))
    with pytest.raises(InputError, match="no reset options, got instance"):
        env.reset(options={"instance": 3})
    with pytest.raises(InputError, match=r"of a toy with .* this one has"):
        env.load_state_dict(ToyEnv(decisions=4).state_dict())
    with pytest.raises(InputError, match="unknown action space 'weight': did you mean 'weights'"):
        ToyEnv(choice="weight")
    configs: tuple[dict[str, Any], ...] = ({"decisions": 0}, {"k_max": 2}, {"noise": -1.0}, {"noise": float("nan")})
    for config in configs:
        with pytest.raises(InputError, match=next(iter(config))):
            ToyEnv(**config)
