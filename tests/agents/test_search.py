"""Lookahead and static search against brute force on the toy, and one run each on real training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd.agents.search import Lookahead, best_static
from ackd.envs.make import tiny
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.types import Selection

SUBSETS = [tuple(bits) for bits in itertools.product((0, 1), repeat=3)]


def play(env: Any, actions: Sequence[Sequence[int]]) -> float:
    return sum(float(env.step(np.array([*bits, *[0] * 5], dtype=np.int8))[1]) for bits in actions)


def run(env: ToyEnv, policy: Any, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, over, _, _ = env.step(policy.predict(observation)[0])
        total += reward
    return total


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), at=st.integers(0, 4), horizon=st.integers(1, 3), cost=st.sampled_from([0.0, 0.2]))
def test_takes_the_best_of_all_subsets(seed: int, at: int, horizon: int, cost: float) -> None:
    env = ToyEnv(decisions=5, cost_weight=cost)
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(at):
        observation = env.step(rng.integers(0, 2, 8, dtype=np.int8))[0]
    before, policy = env.state_dict(), Lookahead(env, horizon)
    action, _ = policy.predict(observation)
    length = min(horizon, 5 - at)
    values = {bits: play(env.fork(), [bits] * length) for bits in SUBSETS}
    best = max(values.values())
    assert values[tuple(action[:3].tolist())] == pytest.approx(best, abs=1e-8)
    fewest = min(sum(bits) for bits, value in values.items() if value > best - 1e-12)
    assert action.sum() == fewest
    assert env.state_dict() == before  # nothing happened to the real one
    assert (policy.forks, policy.probes) == (8, 8 * length)


def test_looking_further_ahead_is_better_and_nothing_beats_the_optimum() -> None:
    """One decision ahead sees no use in hidden states; the whole episode ahead finds what a constant choice can do."""
    env = ToyEnv()
    returns = [np.mean([run(env, Lookahead(env, horizon), seed) for seed in range(3)]) for horizon in (1, 3, 10)]
    optimum = np.mean([env.optimum(seed) for seed in range(3)])
    assert returns[0] < 0.25
    assert returns[0] < returns[1] < returns[2] <= optimum
    assert returns[2] > best_static(env, range(3)).score


def test_masked_types_are_left_out() -> None:
    env = ToyEnv()
    observation, _ = env.reset(seed=0)
    for mask in itertools.product((0, 1), repeat=3):
        observation["mask"] = np.array([*mask, 0, 0, 0, 0, 0], dtype=np.int8)
        policy = Lookahead(env, horizon=10)
        action, _ = policy.predict(observation)
        assert not (action & ~observation["mask"].astype(bool)).any()
        assert policy.forks == 2 ** sum(mask)


def test_given_candidates_are_the_only_ones() -> None:
    env = ToyEnv()
    observation, _ = env.reset(seed=0)
    policy = Lookahead(env, horizon=10, candidates=[("hidden",), ("logits", "hidden"), ("hidden",)])
    assert policy.predict({name: value[None] for name, value in observation.items()})[0].tolist()[0][:3] == [1, 0, 1]
    assert policy.forks == 2


class Many:
    """Seven types of the toy's language; the reward of a subset is how near it is to `best`."""

    knowledge = tuple("abcdefg")

    def __init__(self, best: str = "acf") -> None:
        from ackd.mdp.action_spaces import Subset

        self.choice, self.best, self.seen = Subset(self.knowledge, 8), best, list[str]()

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        return None, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        names = "".join(self.choice.selection(action).chosen)
        self.seen.append(names)
        return None, -float(len(set(names) ^ set(self.best))), True, False, {}

    def fork(self) -> Many:
        twin = Many(self.best)
        twin.choice, twin.seen = self.choice, self.seen
        return twin


def test_many_types_are_searched_around_the_last_selection() -> None:
    from ackd.mdp.observations import FEATURES, GLOBALS

    env = Many()
    features = np.zeros((8, len(FEATURES)), dtype=np.float32)
    features[[0, 5], FEATURES.index("selected")] = 1.0
    observation: dict[str, Any] = {
        "globals": np.zeros(len(GLOBALS), dtype=np.float32),
        "knowledge": features.reshape(-1),
        "mask": np.array([1] * 7 + [0], dtype=np.int8),
    }
    action, _ = Lookahead(env).predict(observation)
    assert env.choice.selection(action) == Selection.of("a", "c", "f")
    expected = {"", "abcdefg", "af", "a", "f", *"bcdeg", "abf", "acf", "adf", "aef", "afg"}
    assert set(env.seen) == expected | {"abcdefg".replace(name, "") for name in "abcdefg"}
    assert len(env.seen) == len(set(env.seen))


def test_bits_are_those_of_the_present_instance() -> None:
    """Of several instances, each with some of the types in an order of its own."""
    from ackd.mdp.action_spaces import Subset
    from ackd.mdp.observations import FEATURES

    env = Many("g")
    env.choice = Subset(("g", "c"), 8)
    mask = np.array([1, 1, 0, 0, 0, 0, 0, 0], dtype=np.int8)
    observation: dict[str, Any] = {"mask": mask, "knowledge": np.zeros(8 * len(FEATURES), dtype=np.float32)}
    action, _ = Lookahead(env).predict(observation)
    assert action.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert env.seen == ["", "g", "c", "gc"]
    Lookahead(env, candidates=[("c", "g"), ("a", "c")]).predict(observation)
    assert env.seen[4:] == ["c", "gc"]


def test_the_best_constant_subset_is_that_of_all_episodes() -> None:
    env, seeds = ToyEnv(), [3, 4, 5]
    found = best_static(env, seeds)
    scores = {}
    for bits in SUBSETS:
        returns = []
        for seed in seeds:
            env.reset(seed=seed)
            returns.append(play(env, [bits] * 10))
        scores[bits] = np.mean(returns)
    best = max(scores, key=lambda bits: scores[bits])
    assert found.names == tuple(name for name, bit in zip(env.knowledge, best, strict=True) if bit)
    assert found.score == pytest.approx(scores[best])
    assert sorted(one.score for one in found.tries) == pytest.approx(sorted(scores.values()))
    assert (found.episodes, found.decisions) == (24, 240)
    observation, _ = env.reset(seed=3)
    assert found.rule(env.knowledge).predict(observation)[0].tolist() == [*best, 0, 0, 0, 0, 0]
    assert run(env, found.rule(env.knowledge), 3) == found.tries[int(best[0] + 2 * best[1] + 4 * best[2])].returns[0]
    assert found.score < env.optimum(3)


def test_random_search_draws_different_subsets_and_the_same_from_a_seed() -> None:
    first, again, other = (best_static(Many(), [0], tries=40, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.tries != other.tries
    assert len({one.names for one in first.tries}) == first.episodes == 40
    assert best_static(Many(), [0], tries=128).names == ("a", "c", "f")


def test_both_work_on_real_training() -> None:
    env = tiny(knowledge=("logits", "hidden"), steps=4)
    found = best_static(env, [0])
    assert found.episodes == 4
    assert found.score == max(one.score for one in found.tries)
    observation, _ = env.reset(seed=0)
    policy = Lookahead(env)
    action, _ = policy.predict(observation)
    assert policy.forks == policy.probes == 4
    rewards = [env.fork().step(env.choice.action(Selection.of(*one.names)))[1] for one in found.tries]
    assert env.fork().step(action)[1] == max(rewards)


def test_refuses_what_cannot_be_searched() -> None:
    env = ToyEnv()
    observation, _ = env.reset(seed=0)
    with pytest.raises(InputError, match="the horizon is 0 decisions"):
        Lookahead(env, horizon=0)
    with pytest.raises(InputError, match=r"unknown knowledge type 'hiden': did you mean 'hidden'\?"):
        Lookahead(env, candidates=[("hiden",)])
    with pytest.raises(InputError, match="no candidates"):
        Lookahead(env, candidates=[])
    with pytest.raises(InputError, match="forks one environment, and was asked for 2"):
        Lookahead(env).predict({name: np.stack([value] * 2) for name, value in observation.items()})
    with pytest.raises(InputError, match="16 tries in 0 episodes"):
        best_static(env, [])
    with pytest.raises(InputError, match="unknown knowledge type 'logits'"):
        best_static(env, [0], tries=8).rule(("hidden", "attention"))
