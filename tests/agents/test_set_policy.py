"""The network's symmetries, and the mask: in actions, log-probabilities, entropies and gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import Tensor

from ackd.agents.set_network import SetNetwork, sampled
from ackd.agents.set_policy import MaskedBernoulli, SetPolicy
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError

G, F = 5, 4
seeds = st.integers(0, 2**31)


def network(seed: int, spread: float = 1.0) -> SetNetwork:
    """Weights far from the near-zero ones of the start."""
    result = SetNetwork(G, F, width=16)
    generator = torch.Generator().manual_seed(seed)
    for parameter in result.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return result


def inputs(seed: int, batch: int, types: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    overview = torch.randn(batch, G, generator=generator)
    features = torch.randn(batch, types, F, generator=generator)
    return overview, features, torch.rand(batch, types, generator=generator) < 0.6


@given(seed=seeds, types=st.integers(1, 7), batch=st.integers(1, 3))
def test_permuting_types_permutes_logits_and_leaves_the_value(seed: int, types: int, batch: int) -> None:
    net, (overview, features, mask) = network(seed), inputs(seed, batch, types)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(types))
    with torch.no_grad():
        logits, values = net(overview, features, mask)
        permuted, same = net(overview, features[:, order], mask[:, order])
    torch.testing.assert_close(permuted, logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, values, rtol=1e-4, atol=1e-4)


@given(seed=seeds, types=st.integers(1, 5), surplus=st.integers(1, 4))
def test_masked_types_have_no_part(seed: int, types: int, surplus: int) -> None:
    """Whatever masked rows hold, and however many there are."""
    net, (overview, features, mask) = network(seed), inputs(seed, 2, types)
    junk = 100 * inputs(seed + 1, 2, surplus)[1]
    with torch.no_grad():
        logits, values = net(overview, features, mask)
        more, same = net(overview, torch.cat([features, junk], 1), torch.cat([mask, junk[..., 0] != junk[..., 0]], 1))
    torch.testing.assert_close(more[:, :types], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, values, rtol=1e-4, atol=1e-4)


def test_types_and_globals_matter() -> None:
    """The symmetries would hold for a network that ignores its inputs."""
    net, (overview, features, _) = network(0), inputs(0, 1, 3)
    mask = torch.ones(1, 3, dtype=torch.bool)
    logits, values = net(overview, features, mask)
    other_features = features.clone()
    other_features[0, 1] += 1.0
    changed, value = net(overview, other_features, mask)
    assert (changed != logits).all()  # its own logit, and through the pool the others'
    assert value != values
    assert (net(overview + 1.0, features, mask)[0] != logits).all()


def test_size_does_not_depend_on_the_number_of_types() -> None:
    sizes = {sum(p.numel() for p in policy(k).network.parameters()) for k in (3, 8, 40)}
    assert len(sizes) == 1
    assert sizes.pop() < 25_000


def policy(k_max: int, width: int = 32) -> SetPolicy:
    env = ToyEnv(k_max=k_max)
    return SetPolicy(env.observation_space, env.action_space, lambda _: 1e-3, width=width)


def test_probabilities_start_near_one_half_and_values_near_zero() -> None:
    obs = {key: torch.as_tensor(value)[None] for key, value in ToyEnv().reset(seed=0)[0].items()}
    for seed in range(5):
        torch.manual_seed(seed)
        logits, values, mask = policy(8).network.read(obs)
        assert logits[mask].sigmoid().sub(0.5).abs().max() < 0.02
        assert values.abs().max() < 0.05


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_draws_are_where_the_logits_are(generator: torch.Generator | None) -> None:
    """As on a GPU, for which `meta` stands here; a generator may be elsewhere."""
    logits, mask = torch.zeros(2, 3, device="meta"), torch.ones(2, 3, dtype=torch.bool, device="meta")
    assert sampled(logits, mask, generator).device.type == "meta"


@given(seed=seeds, deterministic=st.booleans(), spread=st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=40)
def test_a_masked_type_is_never_chosen(seed: int, deterministic: bool, spread: float) -> None:
    """Random weights, up to saturated ones, through stable-baselines3's own predict."""
    agent = policy(8)
    agent.network = SetNetwork(agent.network.overview, agent.network.features, 16)
    generator = torch.Generator().manual_seed(seed)
    for parameter in agent.network.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    rng = np.random.default_rng(seed)
    observation: dict[str, NDArray[Any]] = {
        "globals": rng.uniform(-10, 10, (6, agent.network.overview)).astype(np.float32),
        "knowledge": rng.uniform(-10, 10, (6, 8 * agent.network.features)).astype(np.float32),
        "mask": rng.integers(0, 2, (6, 8), dtype=np.int8),
    }
    actions, _ = agent.predict(observation, deterministic=deterministic)
    assert actions.shape == (6, 8)
    assert actions.dtype == np.int8
    assert not (actions * (1 - observation["mask"])).any()
    with torch.no_grad():
        taken, values, log_prob = agent({key: torch.as_tensor(value) for key, value in observation.items()})
    assert not (taken.numpy() * (1 - observation["mask"])).any()
    assert torch.isfinite(values).all()
    assert torch.isfinite(log_prob).all()


@given(seed=seeds)
def test_the_distribution_is_torchs_bernoulli_on_the_available_bits(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(4, 6, generator=generator)
    mask = torch.rand(4, 6, generator=generator) < 0.5
    actions = (torch.rand(4, 6, generator=generator) < 0.5).float()
    ours = MaskedBernoulli(6).masked(logits, mask)
    log_prob, entropy = ours.log_prob(actions), ours.entropy()
    for row in range(4):
        theirs = torch.distributions.Bernoulli(logits=logits[row][mask[row]])
        expected = theirs.log_prob(actions[row][mask[row]]).sum()
        torch.testing.assert_close(log_prob[row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy[row], theirs.entropy().sum(), rtol=1e-4, atol=1e-5)


def test_draws_have_the_probabilities_of_their_logits() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[-2.0, 0.0, 3.0, 3.0]]).expand(20_000, 4)
    mask = torch.tensor([[True, True, True, False]]).expand(20_000, 4)
    drawn = MaskedBernoulli(4).masked(logits, mask).sample().mean(0)
    expected = [1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-3)), 0.0]
    assert drawn.tolist() == pytest.approx(expected, abs=0.02)


def test_no_gradient_flows_through_masked_logits() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    mask = torch.tensor([[True, False, True, False]] * 3)
    distribution = MaskedBernoulli(4).masked(logits, mask)
    (distribution.log_prob(torch.ones(3, 4)).sum() + distribution.entropy().sum()).backward()
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask] != 0).all()


@pytest.mark.parametrize("algorithm", [A2C, PPO])
def test_works_as_a_policy_class_of_stable_baselines(algorithm: type[A2C] | type[PPO], tmp_path: Any) -> None:
    """Learns, is evaluated, and is loaded onto an environment with the same spaces."""
    model = algorithm(
        SetPolicy, ToyEnv(), n_steps=10, policy_kwargs={"width": 32}, seed=0, device="cpu", **_small(algorithm)
    )
    model.learn(40)
    assert isinstance(model.policy, SetPolicy)
    assert model.policy.network.width == 32
    before = evaluate_policy(model, Monitor(ToyEnv()), 2)
    model.save(tmp_path / "own")
    again = algorithm.load(tmp_path / "own", env=ToyEnv(), device="cpu")
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, again.policy.state_dict()[name])
    assert 0.0 < before[0] < 1.0  # type: ignore[operator]  # floats, as no lists were asked for


def _small(algorithm: type[A2C] | type[PPO]) -> dict[str, Any]:
    return {"batch_size": 10} if algorithm is PPO else {}


def test_a_policy_saved_alone_keeps_its_width(tmp_path: Any) -> None:
    before = policy(5, width=16)
    before.save(tmp_path / "alone")
    assert SetPolicy.load(tmp_path / "alone").network.width == 16


def test_other_spaces_are_refused() -> None:
    env = ToyEnv()
    with pytest.raises(InputError, match="must be MultiBinary"):
        SetPolicy(env.observation_space, spaces.Discrete(4), lambda _: 1e-3)
    with pytest.raises(InputError, match="globals, knowledge and mask"):
        SetPolicy(spaces.Box(0, 1, (3,)), env.action_space, lambda _: 1e-3)
