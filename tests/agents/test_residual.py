"""Corrections of a schedule: none at the start, bounded ever after, and with the density that they are drawn with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from ackd.agents.residual import ResidualPolicy
from ackd.agents.residual_network import BOUND, OFF, Corrections, ResidualNetwork
from ackd.agents.schedule import Schedule
from ackd.agents.store import load, save
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.mdp.observations import FEATURES, GLOBALS

START = Schedule.of({"labels": [0.25, 1, 1], "hidden": [2, 1, 0], "logits": [0, 1, 4]})


def network(seed: int = 0, *, loud: float = 0.0) -> ResidualNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ResidualNetwork(len(GLOBALS), len(FEATURES), values=START.values)
        for layer in (made.actor[-1], made.gate):
            torch.nn.init.normal_(cast(torch.nn.Linear, layer).weight, 0.0, loud)
    return made


def seen() -> dict[str, Tensor]:
    """The first observation of an episode, and some noise on what is not one of its flags."""
    observation, _ = tiny(choice="weights", decisions=4).reset(seed=0)
    return {name: torch.as_tensor(value)[None] for name, value in observation.items()}


def test_it_begins_as_the_schedule() -> None:
    batch = seen()
    torch.testing.assert_close(network().act(batch, deterministic=True), START.act(batch, deterministic=True))


@pytest.mark.parametrize("seed", range(5))
def test_corrections_are_bounded_and_permute_with_the_types(seed: int) -> None:
    one, batch = network(seed, loud=10.0), seen()
    logs, gate, _ = one.corrected(batch)
    far = (logs - START.logs(batch)).abs()
    assert far.max() <= BOUND + 1e-5
    assert far[0, :4].max() > BOUND / 10
    order = torch.tensor([2, 0, 3, 1, *range(4, 8)])
    knowledge = batch["knowledge"].reshape(1, 8, -1)[:, order].flatten(1)
    turned = {**batch, "knowledge": knowledge, "mask": batch["mask"][:, order]}
    other, same, _ = one.corrected(turned)
    torch.testing.assert_close(other, logs[:, order])
    torch.testing.assert_close(same, gate)


def test_a_correction_is_a_bounded_number_of_doublings() -> None:
    one, batch = network(), seen()
    torch.nn.init.constant_(cast(torch.nn.Linear, one.actor[-1]).bias, 0.5)
    logs, *_ = one.corrected(batch)
    torch.testing.assert_close(logs, START.logs(batch) + BOUND * math.tanh(0.5))


def test_draws_have_the_density_that_is_claimed() -> None:
    """Importance sampling: the mean of q/p over draws of p is 1, and so is that of each part's share."""
    count = 200_000
    mask = torch.tensor([True, True, True, False]).expand(count, 4)
    labels = torch.tensor([True, False, False, False]).expand(count, 4)
    means, gate = torch.tensor([0.5, 0.4, 0.7, 0.1]).expand(count, 4), torch.full((count,), -1.0)
    p = Corrections(means, torch.tensor(-1.5), gate, mask, labels)
    q = Corrections(means + 0.05, torch.tensor(-1.7), gate + 0.5, mask, labels)
    draws = p.drawn(False, torch.Generator().manual_seed(0))
    opened = (draws[:, 1:3] == OFF).all(1)
    assert float(opened.float().mean()) == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item(), abs=0.005)
    assert (draws[opened, 0] == 0.5).all()
    assert (draws[:, 3] == 0).all()
    ratio = (q.log_prob(draws) - p.log_prob(draws)).exp()
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(ratio[opened].mean()) == pytest.approx((0.3775 / 0.2689), abs=0.01)
    normal = torch.distributions.Normal(means[0, :3], torch.tensor(-1.5).exp())
    shut = draws[~opened][:5]
    expected = normal.log_prob(shut[:, :3]).sum(1) + torch.log(1 - torch.sigmoid(torch.tensor(-1.0)))
    torch.testing.assert_close(p.log_prob(draws)[~opened][:5], expected)


def test_an_open_gate_leaves_the_labels_alone() -> None:
    one, batch = network(), seen()
    torch.nn.init.constant_(one.gate.bias, 5.0)
    assert one.act(batch, deterministic=True)[0].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0]


def test_ppo_takes_it_and_it_is_saved(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: tiny(choice="weights", decisions=4)] * 2)
    arguments = {"values": START.values.tolist()}
    agent = PPO(ResidualPolicy, env, n_steps=8, batch_size=16, n_epochs=2, seed=0, policy_kwargs=arguments)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(16)
    after = agent.policy.state_dict()
    assert any((before[name] != after[name]).any() for name in before)
    torch.testing.assert_close(after["network.schedule.values"], START.values)
    actor = cast(ResidualPolicy, agent.policy).network
    save(tmp_path / "p", actor, algorithm="residual", knowledge=("logits", "hidden", "attention"), k_max=8)
    observation, _ = tiny(choice="weights").reset(seed=1)
    expected, _ = agent.predict(observation, deterministic=True)
    acted, _ = load(tmp_path / "p").predict(observation, deterministic=True)
    on = acted > 0
    np.testing.assert_allclose(acted[on], expected[on], atol=1e-6)


def test_other_actions_are_refused() -> None:
    env = DummyVecEnv([tiny])
    assert isinstance(env.action_space, spaces.MultiBinary)
    with pytest.raises(InputError, match="must be a Box"):
        PPO(ResidualPolicy, env)
