"""Bandits against their formulas, on problems whose best arm is known, and on the toy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.arms import BanditActor, PerType, Subsets
from ackd.agents.bandits import Bandit, BanditRule, Exp3, Thompson, Ucb
from ackd.agents.learned import Actor
from ackd.agents.named_bandits import bandit
from ackd.agents.online import learn
from ackd.agents.policy import OnlinePolicy, Transition
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS

RULES: tuple[BanditRule, ...] = (Ucb(), Thompson(), Exp3(gamma=0.2), Ucb(width=0.1, memory=0.9))
ARMS: tuple[Subsets | PerType, ...] = (Subsets(3), PerType(3), PerType(7))
masks = st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=4)


def observe(mask: NDArray[Any], progress: Any = 0.0) -> dict[str, NDArray[Any]]:
    overview = np.zeros((*mask.shape[:-1], len(GLOBALS)), dtype=np.float32)
    overview[..., GLOBALS.index("progress")] = progress
    features = np.zeros((*mask.shape[:-1], mask.shape[-1] * len(FEATURES)), dtype=np.float32)
    return {"globals": overview, "knowledge": features, "mask": mask}


def told(observation: dict[str, NDArray[Any]], action: Any, reward: Any, over: Any = True) -> Transition:
    rewards = np.atleast_1d(np.asarray(reward, dtype=np.float32))
    return Transition(
        observation,
        np.asarray(action),
        rewards,
        observation,
        np.broadcast_to(np.asarray(over, dtype=bool), rewards.shape),
    )


def tensors(observation: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in observation.items()}


def taught(arms: Subsets | PerType, rule: BanditRule, mask: NDArray[Any], *, stages: int = 3, seed: int = 0) -> Bandit:
    """A bandit after some rounds with random rewards."""
    bandit, rng = Bandit(arms, rule, stages=stages, credit="decision", seed=seed), np.random.default_rng(seed)
    for _ in range(8):
        observation = observe(mask, rng.uniform(0, 1, len(mask)))
        action, _ = bandit.predict(observation)
        bandit.update(told(observation, action, rng.normal(size=len(mask))))
    return bandit


@given(rows=masks, arms=st.sampled_from(ARMS), rule=st.sampled_from(RULES), seed=st.integers(0, 9))
def test_never_chooses_a_masked_type(rows: list[list[int]], arms: Any, rule: BanditRule, seed: int) -> None:
    mask = np.array(rows, dtype=np.int8)
    bandit = taught(arms, rule, mask, seed=seed)
    other = np.random.default_rng(seed).integers(0, 2, mask.shape, dtype=np.int8)
    generator = torch.Generator().manual_seed(0)
    for each in (mask, mask[0], other):
        for deterministic in (False, True):
            action, _ = bandit.predict(observe(each, 0.5), deterministic=deterministic)
            assert action.shape == each.shape
            assert action.dtype == np.int8
            assert not (action & ~each.astype(bool)).any()
            assert not action[..., arms.types :].any()  # nothing stands for what it does not know
        batch = tensors(observe(np.atleast_2d(each), 0.5))
        assert not (bandit.actor().act(batch, False, generator).numpy() & ~each.astype(bool)).any()


@pytest.mark.parametrize("rule", RULES)
def test_a_masked_type_that_was_played_is_learned_as_left(rule: BanditRule) -> None:
    bandit = Bandit(Subsets(2), rule, credit="decision")
    bandit.update(told(observe(np.array([[1, 0]], dtype=np.int8)), [[1, 1]], 1.0))
    assert bandit.actor().counts.flatten().tolist() == [0, 1, 0, 0]


@given(rows=masks, arms=st.sampled_from(ARMS), rule=st.sampled_from(RULES), seed=st.integers(0, 9))
def test_a_batch_is_decided_row_by_row(rows: list[list[int]], arms: Any, rule: BanditRule, seed: int) -> None:
    mask = np.array(rows, dtype=np.int8)
    bandit, progress = taught(arms, rule, mask, seed=seed), np.linspace(0, 1, len(mask))
    together = bandit.predict(observe(mask, progress), deterministic=True)[0]
    for row, share in enumerate(progress):
        assert (bandit.predict(observe(mask[row], share), deterministic=True)[0] == together[row]).all()
    acted = bandit.actor().act(tensors(observe(mask, progress)), True).numpy()
    assert (acted == together).all()


@pytest.mark.parametrize("arms", [Subsets(3), PerType(3)])
@pytest.mark.parametrize("rule", [Ucb(), Thompson(), Exp3()])
def test_same_seed_same_run(arms: Subsets | PerType, rule: BanditRule) -> None:
    def run(seed: int) -> dict[str, Any]:
        env = DummyVecEnv([ToyEnv] * 2)
        env.seed(1)
        policy = Bandit(arms, rule, stages=10, seed=seed)
        learn(policy, env, 120)
        return policy.actor().state_dict()

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


MEANS = np.array([0.1, 0.2, 0.3, 0.9])


@pytest.mark.slow
@pytest.mark.parametrize("rewards", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("rule", [Ucb(width=0.5), Thompson(width=1.0, memory=1.0), Thompson()])
def test_regret_grows_slower_than_linearly_and_the_best_arm_is_found(rule: BanditRule, rewards: str) -> None:
    """The last quarter of 400 pulls costs less than half of the first, over 4 seeds; 0.525 a pull is chance."""
    regrets = []
    observation = observe(np.ones((1, 2), dtype=np.int8))
    for seed in range(4):
        bandit, rng = Bandit(Subsets(2), rule, seed=seed), np.random.default_rng(seed)
        row = []
        for _ in range(400):
            action, _ = bandit.predict(observation)
            mean = MEANS[action[0, 0] + 2 * action[0, 1]]
            bandit.update(
                told(observation, action, rng.random() < mean if rewards == "bernoulli" else rng.normal(mean, 0.3))
            )
            row.append(0.9 - mean)
        assert bandit.predict(observation, deterministic=True)[0].tolist() == [[1, 1]]
        regrets.append(row)
    quarters = np.array(regrets).reshape(4, 4, 100).mean((0, 2))
    assert quarters[3] < 0.5 * quarters[0]
    assert quarters[3] < 0.1


def test_exp3_finds_the_best_arm() -> None:
    observation, rng = observe(np.ones((1, 2), dtype=np.int8)), np.random.default_rng(0)
    bandit = Bandit(Subsets(2), Exp3(gamma=0.2))
    for _ in range(400):
        action, _ = bandit.predict(observation)
        bandit.update(told(observation, action, rng.random() < MEANS[action[0, 0] + 2 * action[0, 1]]))
    assert bandit.predict(observation, deterministic=True)[0].tolist() == [[1, 1]]


pulls = st.lists(st.tuples(st.integers(0, 3), st.floats(-2, 2, width=16)), min_size=1, max_size=12)


@given(steps=pulls, gamma=st.sampled_from([0.05, 0.3, 1.0]), mask=st.sampled_from([[1, 1], [1, 0]]))
def test_exp3_against_its_formula(steps: list[tuple[int, float]], gamma: float, mask: list[int]) -> None:
    bandit, observation = Bandit(Subsets(2), Exp3(gamma)), observe(np.array([mask], dtype=np.int8))
    arms = [arm for arm in range(4) if not arm & ~(mask[0] + 2 * mask[1])]
    log_weights, low, high = dict.fromkeys(arms, 0.0), math.inf, -math.inf

    def chances() -> dict[int, float]:
        total = math.fsum(math.exp(value) for value in log_weights.values())
        return {arm: (1 - gamma) * math.exp(log_weights[arm]) / total + gamma / len(arms) for arm in arms}

    for drawn, reward in steps:
        arm = arms[drawn % len(arms)]
        low, high = min(low, reward), max(high, reward)
        share = (reward - low) / (high - low) if high > low else 0.5
        log_weights[arm] += gamma * share / (chances()[arm] * len(arms))
        bandit.update(told(observation, [[arm & 1, arm >> 1]], reward))
    known = bandit._known(torch.tensor([0]))
    allowed = torch.tensor([[[arm in arms for arm in range(4)]]])
    ours = bandit.rule.chances(known, allowed)[0, 0]
    assert ours.tolist() == pytest.approx([chances().get(arm, 0.0) for arm in range(4)], abs=1e-5)


def test_exp3_plays_with_its_chances() -> None:
    bandit, one = Bandit(Subsets(2), Exp3(0.5)), observe(np.ones((1, 2), dtype=np.int8))
    for arm, reward in ((0, 0.0), (3, 1.0), (3, 1.0), (2, 0.7)):
        bandit.update(told(one, [[arm & 1, arm >> 1]], reward))
    chances = bandit.rule.chances(bandit._known(torch.tensor([0])), torch.ones(1, 1, 4, dtype=torch.bool))
    many, _ = bandit.predict(observe(np.ones((8000, 2), dtype=np.int8)))
    shares = np.bincount(many[:, 0] + 2 * many[:, 1], minlength=4) / 8000
    assert np.abs(shares - chances[0, 0].numpy()).max() < 0.03  # 5 standard deviations


@given(steps=pulls, memory=st.sampled_from([1.0, 0.9]), width=st.sampled_from([0.3, 1.0]))
def test_ucb_against_its_formula(steps: list[tuple[int, float]], memory: float, width: float) -> None:
    bandit, observation = Bandit(Subsets(2), Ucb(width, memory)), observe(np.ones((1, 2), dtype=np.int8))
    for arm, reward in steps:
        bandit.update(told(observation, [[arm & 1, arm >> 1]], reward))
    weights = memory ** np.arange(len(steps))[::-1]
    played = np.array([[arm == each for each in range(4)] for arm, _ in steps])
    rewards = np.array([reward for _, reward in steps])
    counts = (weights[:, None] * played).sum(0)
    means = np.divide((weights * rewards) @ played, counts, out=np.zeros(4), where=counts > 0)
    assert bandit.actor().counts.flatten().tolist() == pytest.approx(counts, rel=1e-4)
    assert bandit.actor().values.flatten().tolist() == pytest.approx(means, rel=1e-4, abs=1e-5)
    action = bandit.predict(observation)[0][0]
    arm = int(action[0] + 2 * action[1])
    if (counts == 0).any():
        assert counts[arm] == 0
    else:
        span = np.ptp(rewards) or 1.0
        bounds = means + width * span * np.sqrt(2 * np.log(counts.sum()) / counts)
        assert bounds[arm] == pytest.approx(bounds.max(), rel=1e-4)


def test_thompson_draws_from_its_posterior() -> None:
    """Two arms, one played 4 times and one 9 times: how often the better one wins is known."""
    rule = Thompson(width=1.0, memory=1.0)
    bandit, one = Bandit(PerType(1), rule), observe(np.ones((1, 1), dtype=np.int8))
    rewards = {0: [0.0, 1.0, 0.2, 0.8], 1: [0.3, 0.9, 0.6, 0.6, 0.9, 0.3, 0.6, 0.6, 0.6]}
    for arm, all_of_it in rewards.items():
        for reward in all_of_it:
            bandit.update(told(one, [[arm]], reward))
    squares = sum(np.var(all_of_it) * len(all_of_it) for all_of_it in rewards.values())
    spread = math.sqrt((1.0 + squares) / (1 + 13 - 2))
    assert bandit.actor().spread.item() == pytest.approx(spread, rel=1e-4)
    z = (0.6 - 0.5) / (spread * math.sqrt(1 / 4 + 1 / 9))
    many, _ = bandit.predict(observe(np.ones((8000, 1), dtype=np.int8)))
    assert many.mean() == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=0.03)


@pytest.mark.parametrize("credit", ["return", "decision"])
def test_credit_is_the_decision_or_all_that_follows_in_its_episode(credit: str) -> None:
    """Two environments whose episodes end at different times; by hand."""
    bandit, mask = Bandit(PerType(1), Ucb(), stages=2, credit=credit), np.ones((2, 1), dtype=np.int8)
    policy: OnlinePolicy = bandit
    progress = np.array([[0.0, 0.0], [0.5, 0.6], [0.0, 0.9]])
    actions = [[[1], [0]], [[1], [1]], [[0], [1]]]
    rewards = [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]
    over = [[False, False], [True, False], [False, True]]
    for each in zip(progress, actions, rewards, over, strict=True):
        policy.update(told(observe(mask, each[0]), *each[1:]))
    values, counts = bandit.actor().values[:, 0], bandit.actor().counts[:, 0]
    if credit == "return":  # the first environment's second episode is still going on
        assert counts.tolist() == [[1, 1], [0, 3]]
        assert values.tolist() == [[70.0, 3.0], [0.0, pytest.approx((2 + 60 + 40) / 3)]]
    else:
        assert counts.tolist() == [[2, 1], [0, 3]]
        assert values.tolist() == [[7.0, 1.0], [0.0, pytest.approx((2 + 20 + 40) / 3)]]


@given(decisions=st.integers(1, 300))
def test_every_decision_has_its_stage(decisions: int) -> None:
    actor = BanditActor(decisions, 1, 0)
    progress = np.arange(decisions, dtype=np.float32) / np.float32(decisions)
    stages, _ = actor.read(tensors(observe(np.ones((decisions, 1), dtype=np.int8), progress)))
    assert stages.tolist() == list(range(decisions))
    assert actor.read(tensors(observe(np.ones((1, 1), dtype=np.int8), 1.0)))[0].tolist() == [decisions - 1]


@pytest.mark.parametrize("arms", ARMS)
def test_an_actor_is_a_copy_and_is_rebuilt_from_its_sizes_and_tensors(arms: Subsets | PerType) -> None:
    mask = np.ones((4, 9), dtype=np.int8)
    bandit = taught(arms, Thompson(), mask)
    actor: Actor = bandit.actor()
    state = actor.state_dict()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in state.values())
    rebuilt = BanditActor(**dict(actor.sizes))
    rebuilt.load_state_dict(state)
    assert rebuilt.kind == actor.kind == "bandit"
    batch = tensors(observe(mask, 0.4))
    before = actor.act(batch, True)
    assert torch.equal(rebuilt.act(batch, True), before)
    assert before.shape == (4, 9)
    values = actor.state_dict()["values"].clone()
    bandit.update(told(observe(mask, 0.4), mask, [5.0] * 4))
    assert torch.equal(actor.state_dict()["values"], values)


def test_an_actor_draws_by_softmax_among_what_was_played() -> None:
    actor = BanditActor(1, 2, 1)
    actor.values[0, 0] = torch.tensor([0.0, 0.5, 9.0, 1.0])
    actor.counts[0, 0] = torch.tensor([1.0, 2.0, 0.0, 3.0])
    actor.spread.fill_(0.5)
    generator = torch.Generator().manual_seed(0)
    bits = actor.act(tensors(observe(np.ones((8000, 2), dtype=np.int8))), False, generator).numpy()
    shares = np.bincount(bits[:, 0] + 2 * bits[:, 1], minlength=4) / 8000
    expected = np.exp([0.0, 1.0, -np.inf, 2.0])
    assert np.abs(shares - expected / expected.sum()).max() < 0.03
    assert actor.act(tensors(observe(np.array([[0, 1]], dtype=np.int8))), True).tolist() == [[0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "rule"), [(Subsets(3), Thompson()), (PerType(3), Thompson(width=3.0))])
def test_learns_to_switch_on_the_toy(arms: Subsets | PerType, rule: BanditRule) -> None:
    """Three quarters of the optimum is all that a constant choice can have."""
    env, fresh = DummyVecEnv([ToyEnv] * 4), ToyEnv()
    env.seed(0)
    policy: Any = Bandit(arms, rule, stages=10)
    learn(policy, env, 4000)
    several = DummyVecEnv([lambda: Monitor(ToyEnv())] * 2)
    several.seed(100)
    returns, lengths = evaluate_policy(policy, several, 4, return_episode_rewards=True)
    assert lengths == [10] * 4
    fresh.reset(seed=100)
    assert np.mean(returns) > 0.85 * fresh.optimum(100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subsets(9), r"1 to 8 knowledge types, and 9 would have 2\^9 arms: use the per-type form, PerType"),
        (lambda: Subsets(0), "1 to 8 knowledge types"),
        (lambda: PerType(0), "at least 1 knowledge type, not 0"),
        (lambda: Bandit(Subsets(2), Ucb(), credit="retrun"), r"unknown credit 'retrun': did you mean 'return'\?"),
        (lambda: Bandit(Subsets(2), Ucb(), stages=0), "1 to 1000 stages, not 0"),
        (lambda: Ucb(width=0.0), "width is 0.0"),
        (lambda: Thompson(memory=1.5), "memory 1.5"),
        (lambda: Exp3(gamma=0.0), "gamma is 0.0"),
    ],
)
def test_refuses_what_cannot_work(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_refuses_rewards_and_environments_that_cannot_be() -> None:
    bandit, mask = Bandit(Subsets(2), Ucb()), np.ones((2, 2), dtype=np.int8)
    with pytest.raises(InputError, match="NaN or infinite"):
        bandit.update(told(observe(mask), mask, [0.0, np.nan]))
    bandit.update(told(observe(mask), mask, [0.0, 1.0]))
    with pytest.raises(InputError, match="learns in 2 environments, and was told of 1"):
        bandit.update(told(observe(mask[:1]), mask[:1], [0.0]))


def test_one_observation_without_a_batch_will_do() -> None:
    bandit, mask = Bandit(Subsets(2), Ucb()), np.ones(2, dtype=np.int8)
    observation = observe(mask)
    bandit.update(Transition(observation, mask, np.float32(1.0), observation, np.bool_(True)))  # type: ignore[arg-type]
    assert bandit.actor().counts.flatten().tolist() == [0, 0, 0, 1]
    assert bandit.predict(observation, deterministic=True)[0].tolist() == [1, 1]


@pytest.mark.parametrize(("name", "few", "many"), [("ucb", 2.5, 2.5), ("thompson", 2.0, 3.0)])
def test_thompson_over_single_types_explores_more(name: str, few: float, many: float) -> None:
    over_subsets, over_types = bandit(name, 4, seed=0), bandit(name, 5, seed=0)
    assert (over_subsets.network.values.shape[1], over_types.network.values.shape[1]) == (1, 5)  # slots
    widths = [getattr(one.rule, "width", None) for one in (over_subsets, over_types)]
    assert widths == [few, many]
