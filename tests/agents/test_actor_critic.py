"""The default agents on the toy: they must find the switch that no constant selection makes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch.utils.flop_counter import FlopCounterMode

from ackd.agents import LOG_INTERVAL, Policy, SetPolicy, make_agent, rule
from ackd.agents.actor_critic import flops_per_decision
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError

FRESH = range(50_000, 50_010)  # seeds that no agent trains on
KNOWLEDGE = ToyEnv().knowledge


def evaluate(policy: Policy | BaseAlgorithm) -> float:
    """The mean return of the deterministic policy over the fresh seeds."""
    vector = VecMonitor(DummyVecEnv([ToyEnv for _ in FRESH]))
    vector.seed(FRESH.start)
    predictor: Any = policy
    returns, _ = evaluate_policy(predictor, vector, len(FRESH), return_episode_rewards=True)
    return float(np.mean(returns))


def best_constant() -> float:
    names = [chosen for n in range(1, 4) for chosen in itertools.combinations(KNOWLEDGE, n)]
    return max(evaluate(rule("+".join(chosen), KNOWLEDGE)) for chosen in names)


def optimum() -> float:
    return float(np.mean([ToyEnv().optimum(seed) for seed in FRESH]))


def train(name: str, seed: int, decisions: int) -> float:
    agent = make_agent(name, DummyVecEnv([ToyEnv] * 4), seed=seed, n_steps=10)
    return evaluate(agent.learn(decisions, log_interval=LOG_INTERVAL))


@pytest.mark.slow
def test_a2c_reaches_the_optimum() -> None:
    """A run makes 95 % of it, which no constant selection does; `benchmarks/toy.py` has twenty."""
    target = 0.95 * optimum()
    assert best_constant() < 0.8 * target
    assert train("a2c", 0, 10_000) >= target


@pytest.mark.slow
def test_ppo_reaches_the_optimum_with_half_of_the_decisions() -> None:
    assert train("ppo", 1, 4_000) >= 0.95 * optimum()


def test_the_measure_is_right() -> None:
    """Labels alone earn what the formula says, on every seed; random subsets stay far below the target."""
    assert evaluate(rule("labels", KNOWLEDGE)) == pytest.approx(1 - 0.98**10)
    assert evaluate(rule("random", KNOWLEDGE)) < 0.7 * optimum()


@pytest.mark.parametrize(("decisions", "size"), [(2, 2), (3, 3), (4, 2), (7, 7), (10, 5)])
def test_batches_share_out_a_rollout_of_any_length(decisions: int, size: int) -> None:
    agent = make_agent("ppo", ToyEnv(decisions=decisions), seed=0, n_steps=decisions, episodes=1)
    assert isinstance(agent, PPO)
    assert agent.batch_size == size
    agent.learn(decisions)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_same_seed_same_agent(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        agent = make_agent(name, ToyEnv(), seed=seed, n_steps=10).learn(160)
        return torch.cat([parameter.flatten() for parameter in agent.policy.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("envs", "a2c", "ppo"), [(1, 40, 80), (3, 20, 30), (4, 10, 20), (16, 10, 10)])
def test_a_rollout_holds_whole_episodes_of_every_environment(envs: int, a2c: int, ppo: int) -> None:
    vector = DummyVecEnv([ToyEnv] * envs)
    for name, steps in (("a2c", a2c), ("ppo", ppo)):
        agent: Any = make_agent(name, vector, seed=0, n_steps=10)
        assert agent.n_steps == steps


def test_overrides_replace_defaults() -> None:
    agent = make_agent("ppo", ToyEnv(), seed=0, n_steps=10, gamma=0.9, policy_kwargs={"width": 16})
    assert isinstance(agent, PPO)
    assert isinstance(agent.policy, SetPolicy)
    assert (agent.gamma, agent.gae_lambda, agent.policy.network.width) == (0.9, 0.95, 16)
    assert isinstance(make_agent("a2c", ToyEnv(), seed=0, n_steps=10, ent_coef=0.0), A2C)


def test_the_price_of_a_decision() -> None:
    """Counted by torch's own counter, acting and training."""
    for name, epochs in (("a2c", 1), ("ppo", 8)):
        agent = make_agent(name, ToyEnv(), seed=0, n_steps=10)
        observation = {key: torch.as_tensor(value)[None] for key, value in ToyEnv().reset(seed=0)[0].items()}
        with FlopCounterMode(display=False) as counter:
            agent.policy(observation)
        assert flops_per_decision(agent) == (1 + 3 * epochs) * counter.get_total_flops()


def test_curves_are_written_from_the_first_rollout(tmp_path: Any) -> None:
    agent = make_agent("a2c", ToyEnv(), seed=0, n_steps=10, tensorboard_log=str(tmp_path))
    agent.learn(40, log_interval=LOG_INTERVAL)
    written = list(tmp_path.rglob("events.out.tfevents.*"))
    assert len(written) == 1
    assert b"rollout/ep_rew_mean" in written[0].read_bytes()


def test_unknown_agents_and_arguments_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown agent 'pp0': did you mean 'ppo'\?"):
        make_agent("pp0", ToyEnv(), seed=0, n_steps=10)
    with pytest.raises(InputError, match="an episode of 0 decisions"):
        make_agent("a2c", ToyEnv(), seed=0, n_steps=0)
    with pytest.raises(InputError, match="unknown argument of a2c 'gama': did you mean 'gamma'"):
        make_agent("a2c", ToyEnv(), seed=0, n_steps=10, gama=0.9)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
@pytest.mark.parametrize("episodes", [1, 3, 8, 16, 20, 24, 37, 64, 100])
def test_short_runs_get_short_rollouts(name: str, episodes: int) -> None:
    agent: Any = make_agent(name, ToyEnv(), seed=0, n_steps=10, episodes=episodes)
    in_rollout, rest = divmod(agent.n_steps, 10)
    assert rest == 0
    assert episodes % in_rollout == 0  # so no episode more is played than was asked for
    assert in_rollout == 1 or episodes // in_rollout >= 8
    if episodes == 64:
        assert in_rollout == {"a2c": 4, "ppo": 8}[name]
