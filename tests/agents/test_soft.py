"""DDPG, TD3 and SAC over sets: symmetries, the mask, returns over several decisions, and the toy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ackd.agents import make_agent
from ackd.agents.actor_critic import choice_of, flops_per_decision
from ackd.agents.replay import ReturnReplay
from ackd.agents.soft import GaussianPolicy, QNetwork, WeightsPolicy, invertible
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError

G, F = 5, 4
SOFT = ("ddpg", "td3", "sac")
Soft = WeightsPolicy | GaussianPolicy


def toy() -> ToyEnv:
    return ToyEnv(choice="type-shares")


def space(types: int) -> spaces.Dict:
    return spaces.Dict(
        {
            "globals": spaces.Box(-10, 10, (G,), np.float32),
            "knowledge": spaces.Box(-10, 10, (F * types,), np.float32),
            "mask": spaces.MultiBinary(types),
        }
    )


def policy_of(name: str, types: int, seed: int = 0) -> Soft:
    """With weights far from the near-zero ones of the start."""
    kind: Any = GaussianPolicy if name == "sac" else WeightsPolicy
    policy: Soft = kind(space(types), spaces.Box(0, 1, (types,), np.float32), lambda _: 1e-3, width=16)
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return policy


def observe(seed: int, batch: int, types: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "globals": torch.randn(batch, G, generator=generator),
        "knowledge": torch.randn(batch, types * F, generator=generator),
        "mask": (torch.rand(batch, types, generator=generator) < 0.6).float(),
    }


def permuted(observation: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    rows = observation["knowledge"].reshape(*observation["mask"].shape, F)
    return observation | {"knowledge": rows[:, order].flatten(1), "mask": observation["mask"][:, order]}


@pytest.mark.parametrize("name", ["td3", "sac"])
@given(seed=st.integers(0, 2**31), types=st.integers(1, 6), batch=st.integers(1, 3))
def test_permuting_types_permutes_weights_and_leaves_q(name: str, seed: int, types: int, batch: int) -> None:
    policy, observation = policy_of(name, types, seed), observe(seed, batch, types)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(types))
    critic: Any = policy.critic
    with torch.no_grad():
        actions = policy._predict(observation, deterministic=True)
        same = policy._predict(permuted(observation, order), deterministic=True)
        values = critic(observation, actions)
        again = critic(permuted(observation, order), actions[:, order])
    torch.testing.assert_close(same, actions[:, order], rtol=1e-4, atol=1e-5)
    for one, other in zip(values, again, strict=True):
        assert one.shape == (batch, 1)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["td3", "sac"])
@given(seed=st.integers(0, 2**31), types=st.integers(1, 6), none=st.booleans(), deterministic=st.booleans())
def test_masked_types_have_no_weight_and_no_part(
    name: str, seed: int, types: int, none: bool, deterministic: bool
) -> None:
    """Whatever a buffer holds for them, noise and random draws included; also where every type is masked."""
    policy, observation = policy_of(name, types, seed), observe(seed, 3, types)
    if none:
        observation["mask"] = torch.zeros_like(observation["mask"])
    masked = observation["mask"] == 0
    arrays: Any = {key: part.numpy() for key, part in observation.items()}
    weights, _ = policy.predict(arrays, deterministic=deterministic)
    assert (weights[masked.numpy()] == 0).all()
    assert ((weights >= 0) & (weights <= 1)).all()
    actions = torch.rand(3, types, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    junk = torch.where(masked, torch.rand(3, types) * 2 - 1, actions).requires_grad_()
    critic: Any = policy.critic
    first, again = critic(observation, actions)[0], critic(observation, junk)[0]
    torch.testing.assert_close(first, again)
    again.sum().backward()
    assert (junk.grad[masked] == 0).all()  # type: ignore[index]


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_the_number_of_parameters_does_not_depend_on_the_number_of_types(name: str) -> None:
    few, many = policy_of(name, 3).state_dict(), policy_of(name, 30).state_dict()
    assert {key: part.shape for key, part in few.items()} == {key: part.shape for key, part in many.items()}


def test_the_inverted_gradient_lets_go_of_the_ends() -> None:
    logits = torch.tensor([-9.0, -9.0, 9.0, 9.0, 0.0], requires_grad=True)
    weights = invertible(logits)
    torch.testing.assert_close(weights, logits.sigmoid())
    weights.backward(torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0]))  # a negative one raises the weight
    expected = torch.stack([-(1 - weights[0]), weights[1], -(1 - weights[2]), weights[3], weights[4]])
    torch.testing.assert_close(logits.grad, expected)


@given(seed=st.integers(0, 2**31), types=st.integers(1, 5))
def test_the_density_is_that_of_the_squashed_normal(seed: int, types: int) -> None:
    """Against torch's own transformed distributions, over the available types."""
    actor: Any = cast(GaussianPolicy, policy_of("sac", types, seed)).actor
    observation = observe(seed, 4, types)
    torch.manual_seed(seed)
    with torch.no_grad():
        actions, density = actor.action_log_prob(observation)
        means, _, mask = actor.network.read(observation)
        rows = observation["globals"].unsqueeze(1).expand(-1, types, -1)
        features = observation["knowledge"].reshape(4, types, F)
        sigma = actor.spread(torch.cat([rows, features], dim=-1)).squeeze(-1).clamp(-5, 2).exp()
        parts = [torch.distributions.SigmoidTransform(), torch.distributions.AffineTransform(-1.0, 2.0)]
        exact = torch.distributions.TransformedDistribution(
            torch.distributions.Normal(means.double(), sigma.double()), parts
        )
        inside = mask & (actions.abs() < 0.999)  # float32 cannot be inverted nearer to the ends
        expected = (exact.log_prob(actions.double().clamp(-0.9999, 0.9999)) * inside).sum(1)
    whole = (inside == mask).all(1)
    torch.testing.assert_close(density[whole].double(), expected[whole], rtol=1e-2, atol=1e-2)


def test_returns_over_several_decisions_end_with_their_episode() -> None:
    """Against sums by hand, in a ring that has been filled more than once."""
    replay = ReturnReplay(14, space(2), spaces.Box(0, 1, (2,), np.float32), n_envs=2, n_steps=3, gamma=0.5)
    history: list[tuple[float, bool]] = []
    for t in range(11):
        over = t % 4 == 3
        observation: Any = {key: np.full((2, *(box.shape or ())), t, np.float32) for key, box in space(2).items()}
        after = {key: part + 1 for key, part in observation.items()}
        replay.add(observation, after, np.zeros((2, 2)), np.full(2, float(t)), np.full(2, over), [{}, {}])
        history.append((float(t), over))
    sample = replay._get_samples(np.arange(7))
    for row in range(7):
        t = int(sample.observations["globals"][row, 0])
        total, steps = 0.0, 0
        for reward, over in history[t : t + 3]:
            total, steps = total + 0.5**steps * reward, steps + 1
            if over:
                break
        assert sample.rewards[row].item() == pytest.approx(total)
        assert sample.discounts is not None
        assert sample.discounts[row].item() == 0.5**steps
        assert sample.dones[row].item() == history[t + steps - 1][1]
        assert sample.next_observations["globals"][row, 0] == t + steps


def train(name: str, seed: int) -> Any:
    return make_agent(name, DummyVecEnv([toy] * 2), seed=seed, n_steps=10, episodes=8).learn(60)


@lru_cache
def trained(name: str) -> Any:
    """For tests that leave it as it is."""
    return train(name, 1)


@pytest.mark.parametrize("name", SOFT)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    first, again, other = (one.policy.state_dict() for one in (trained(name), train(name, 1), train(name, 2)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", SOFT)
def test_what_is_saved_acts_like_the_agent(name: str) -> None:
    agent = trained(name)
    observation, _ = toy().reset(seed=0)
    batch = {key: torch.as_tensor(part)[None] for key, part in observation.items()}
    weights, _ = agent.predict(observation, deterministic=True)
    with torch.no_grad():
        np.testing.assert_allclose(agent.policy.network.act(batch, deterministic=True)[0], weights, atol=1e-6)
    assert agent.policy.network.kind == "set-weights"


@pytest.mark.parametrize("name", SOFT)
def test_an_agent_can_be_saved_and_go_on(name: str, tmp_path: Any) -> None:
    agent = trained(name)
    agent.save(tmp_path / "agent.zip")
    twin = type(agent).load(tmp_path / "agent.zip", env=DummyVecEnv([toy] * 2), device="cpu")
    for key, part in agent.policy.state_dict().items():
        assert torch.equal(twin.policy.state_dict()[key], part)
    twin.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize("name", SOFT)
def test_defaults_fit_the_environments_and_overrides_win(name: str) -> None:
    agent: Any = make_agent(name, DummyVecEnv([toy] * 4), seed=0, n_steps=10)
    assert isinstance(agent, {"ddpg": DDPG, "td3": TD3, "sac": SAC}[name])
    assert (agent.gamma, agent.gradient_steps, agent.learning_starts) == (1.0, 4, 200)
    assert choice_of(name) == "weights"
    few: Any = make_agent(name, toy(), seed=0, n_steps=10, episodes=8, tau=0.5, gamma=0.9, policy_kwargs={"width": 16})
    assert few.replay_buffer.gamma == 0.9
    assert (few.learning_starts, few.tau, few.policy.network.width) == (10, 0.5, 16)
    with pytest.raises(InputError, match=r"Box\(0, 1\)"):
        make_agent(name, ToyEnv(), seed=0, n_steps=10)


@pytest.mark.parametrize("name", SOFT)
def test_the_price_of_a_decision(name: str) -> None:
    """Against torch's own counter, over an actual gradient step; backwards it skips what the inputs would get."""
    agent: Any = make_agent(name, toy(), seed=0, n_steps=10).learn(205)
    observation = {key: torch.as_tensor(part)[None] for key, part in toy().reset(seed=0)[0].items()}
    with FlopCounterMode(display=False) as acting:
        agent.policy.network.act(observation, deterministic=True)
    with FlopCounterMode(display=False) as learning:
        agent.train(gradient_steps=2, batch_size=64)
    counted = acting.get_total_flops() + learning.get_total_flops() / 2
    assert flops_per_decision(agent) == pytest.approx(counted, rel=0.15)
    assert isinstance(agent.policy.critics.networks[0], QNetwork)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decisions"), [("ddpg", 1500), ("td3", 1500), ("sac", 2000)])
def test_reaches_the_optimum_of_the_toy(name: str, decisions: int) -> None:
    agent = make_agent(name, DummyVecEnv([toy] * 4), seed=0, n_steps=10).learn(decisions)
    fresh = range(50_000, 50_010)
    vector = VecMonitor(DummyVecEnv([toy for _ in fresh]))
    vector.seed(fresh.start)
    returns, _ = evaluate_policy(agent, vector, len(fresh), return_episode_rewards=True)
    assert np.mean(returns) >= 0.95 * np.mean([ToyEnv().optimum(seed) for seed in fresh])
