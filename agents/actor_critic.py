"""stable-baselines3's algorithms with defaults for short episodes, in which only the return matters.

A2C and PPO choose subsets; DDPG, TD3 and SAC give weights. The defaults were chosen on the toy:

====================  ==========  ==========  =========================================================================
default               a2c         ppo         why
====================  ==========  ==========  =========================================================================
rollout               4 episodes  8 episodes  whole episodes, so that no episode is cut and bootstrapped; several of
                                              them, because advantages are normalised within a rollout
gamma                 1           1           only the return matters, because rewards telescope, and episodes are
                                              short
gae_lambda            0.95        0.95        hidden states pay off only some decisions later; 0.85 learns more slowly
normalize_advantage   yes         yes         rewards differ in size between tasks, but ent_coef must fit all of them
ent_coef              0.3         0.02        with 0.1 or less, A2C stays at hidden+logits followed by logits, a local
                                              optimum; with 0.4 it stays too random. PPO's clipping has the same
                                              effect, so it needs less
optimizer             Adam        Adam        its steps do not depend on the size of the gradient
learning_rate         4e-3 -> 0   3e-3 -> 0   falls linearly over the decisions of `learn`: a constant 4e-3 oscillates
                                              around the optimum, and a constant 2e-3 takes longer to reach it
n_epochs              1           8           PPO reuses decisions, which are expensive, and needs a third of them
batch_size            all         half        share of the rollout; all of it if it cannot be halved or its half is 1
device                cpu         cpu         the network is small
====================  ==========  ==========  =========================================================================

====================  ============================  =================================================================
default               ddpg, td3, sac                why
====================  ============================  =================================================================
gamma                 1                             as above
learning_starts       20 episodes of random         the critic sees every weight at every time before it is used; a
                      weights, or 1/8 of all        short run cannot afford as many
gradient_steps        1 for each decision           decisions cost more than gradient steps
learning_rate         3e-3 -> 0                     as above
optimizer             Adam, eps 1e-4                as long as the critic knows little, gradients are tiny and all
                                                    have the same direction; eps 1e-8 scales them up, so that an
                                                    actor gives the same weights everywhere: for 5 of 16 seeds after
                                                    400 decisions, for 1 seed with 1e-4
batch_size, tau       64, 0.05                      episodes are short, and a slow target delays the bootstrapping
replay                returns over 4 decisions      later observations do not show the effect of the first decision,
                                                    because losses are relative to their first value: with returns
                                                    over 1 decision, a critic loses this effect, and DDPG stays near
                                                    95 %
buffer_size           1,000                         such returns are right only for actions like the present ones;
                                                    10,000 is slower
action_noise          normal, 0.6                   with 0.2, TD3 is slow to leave hidden+logits for the switch to
                                                    logits; so is SAC with only its own randomness
ent_coef              3e-4 (sac)                    with 5e-3, weights stay far from 0 and 1, and 11 % are lost; not
                                                    adapted, because the target entropy depends on the mask
device                cpu                           the network is small
====================  ============================  =================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from ackd.agents.replay import ReturnReplay
from ackd.agents.set_policy import SetPolicy
from ackd.agents.soft import GaussianPolicy, WeightsPolicy, sizes
from ackd.errors import InputError, unknown

AGENTS: Mapping[str, type[BaseAlgorithm]] = {"a2c": A2C, "ppo": PPO, "ddpg": DDPG, "td3": TD3, "sac": SAC}
POLICIES: Mapping[str, type[BasePolicy]] = {
    "a2c": SetPolicy,
    "ppo": SetPolicy,
    "ddpg": WeightsPolicy,
    "td3": WeightsPolicy,
    "sac": GaussianPolicy,
}
LOG_INTERVAL = 1  # for learn(); with A2C's own 100 rollouts, a short run logs nothing
UPDATES = 8  # at least this many, if there are enough episodes
EPISODES = {"a2c": 4, "ppo": 8}  # in a rollout, over all environments
RETURN = 4  # decisions in the returns of DDPG, TD3 and SAC
RANDOM = 20  # episodes of random weights before DDPG, TD3 and SAC learn; at most an eighth of all
NOISE = 0.6  # standard deviation of the action noise, on stable-baselines3's scale from -1 to 1
COMMON: dict[str, Any] = {"gamma": 1.0, "gae_lambda": 0.95, "normalize_advantage": True, "device": "cpu"}
REPLAY: dict[str, Any] = {
    "gamma": 1.0,
    "learning_rate": LinearSchedule(3e-3, 0.0, 1.0),
    "batch_size": 64,
    "tau": 0.05,
    "buffer_size": 1_000,
    "replay_buffer_class": ReturnReplay,
    "train_freq": 1,
    "device": "cpu",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "a2c": COMMON | {"learning_rate": LinearSchedule(4e-3, 0.0, 1.0), "ent_coef": 0.3, "use_rms_prop": False},
    "ppo": COMMON | {"learning_rate": LinearSchedule(3e-3, 0.0, 1.0), "ent_coef": 0.02, "n_epochs": 8},
    "ddpg": REPLAY,
    "td3": REPLAY,
    "sac": REPLAY | {"ent_coef": 3e-4},
}


def check_name(name: str) -> None:
    """Rejects a name that `make_agent` does not know, before anything expensive starts.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in AGENTS:
        raise unknown("agent", name, AGENTS)


def choice_of(name: str) -> str:
    """The action space of an agent: `subset` or `weights`.

    Raises:
        InputError: if the name is unknown.
    """
    check_name(name)
    return "subset" if POLICIES[name] is SetPolicy else "weights"


def make_agent(
    name: str,
    env: gym.Env[Any, Any] | VecEnv,
    *,
    seed: int,
    n_steps: int,
    episodes: int | None = None,
    tensorboard_log: str | None = None,
    **overrides: Any,
) -> BaseAlgorithm:
    """An agent over sets of knowledge types, ready to `learn(decisions, log_interval=LOG_INTERVAL)`.

    The module's docstring explains the defaults.

    Args:
        name: `a2c` or `ppo`, which choose subsets; `ddpg`, `td3` or `sac`, which give weights.
        env: one environment, or several as a `VecEnv`.
        seed: seed of the weights and of random draws; it also seeds the environments.
        n_steps: decisions in an episode; a rollout takes whole episodes from each environment.
        episodes: the total number of episodes. If it is small, rollouts are shorter, so that there are at least
            `UPDATES` of them and their length divides `episodes`; and fewer episodes are random.
        tensorboard_log: the folder for curves.
        **overrides: arguments of the algorithm itself that replace defaults.

    Raises:
        InputError: if the name or an argument is unknown, or the environment has other spaces.

    References:
        Asynchronous Methods for Deep Reinforcement Learning, 2016, https://arxiv.org/abs/1602.01783 (a2c)
        Proximal Policy Optimization Algorithms, 2017, https://arxiv.org/abs/1707.06347 (ppo)
        Continuous Control with Deep Reinforcement Learning, 2015, https://arxiv.org/abs/1509.02971 (ddpg)
        Addressing Function Approximation Error in Actor-Critic Methods, 2018, https://arxiv.org/abs/1802.09477 (td3)
        Soft Actor-Critic, 2018, https://arxiv.org/abs/1801.01290 (sac)
    """
    check_name(name)
    if n_steps < 2:
        raise InputError(f"an episode of {n_steps} decisions leaves nothing to learn: make it at least 2")
    known = inspect.signature(AGENTS[name]).parameters.keys() - {"policy", "env", "self"}
    for argument in overrides:
        if argument not in known:
            raise unknown(f"argument of {name}", argument, known)
    envs = env.num_envs if isinstance(env, VecEnv) else 1
    if choice_of(name) == "subset":
        rollout = n_steps * -(-_episodes_in_rollout(name, episodes) // envs)
        own: dict[str, Any] = {"n_steps": rollout}
        if name == "ppo":
            all_of_it = rollout * envs
            # stable-baselines3 needs batches of equal size above 1, because it normalises advantages within them
            own["batch_size"] = all_of_it if all_of_it % 2 or all_of_it == 2 else all_of_it // 2
    else:
        sizes(env.observation_space, env.action_space)  # stable-baselines3 only asserts it
        random = RANDOM if episodes is None else min(RANDOM, max(1, episodes // UPDATES))
        noise = NormalActionNoise(*(np.full(env.action_space.shape or (), value) for value in (0.0, NOISE)))
        own = {"learning_starts": n_steps * random, "gradient_steps": envs, "action_noise": noise}
        own["policy_kwargs"] = {"optimizer_kwargs": {"eps": 1e-4}}  # a new dict, since stable-baselines3 writes into it
        if "replay_buffer_class" not in overrides:
            own["replay_buffer_kwargs"] = {"n_steps": RETURN, "gamma": overrides.get("gamma", REPLAY["gamma"])}
    arguments = DEFAULTS[name] | own | overrides
    return AGENTS[name](POLICIES[name], env, seed=seed, tensorboard_log=tensorboard_log, **arguments)


def _episodes_in_rollout(name: str, episodes: int | None) -> int:
    if episodes is None:
        return EPISODES[name]
    return max(n for n in range(1, EPISODES[name] + 1) if n == 1 or (episodes % n == 0 and episodes // n >= UPDATES))


def flops_per_decision(agent: BaseAlgorithm) -> float:
    """Floating-point operations that the agent spends on a decision: a pass to act, and its share of the learning.

    A backward pass counts as two forward passes. A2C and PPO run one forward and one backward pass over each decision
    in each epoch; the others take gradient steps on batches from their buffer.

    Raises:
        InputError: if the agent has a policy of another kind.
    """
    policy = agent.policy
    if isinstance(policy, SetPolicy):
        epochs = agent.n_epochs if isinstance(agent, PPO) else 1
        return (1 + 3 * epochs) * policy.network.flops(policy.bits)
    if isinstance(policy, WeightsPolicy | GaussianPolicy):
        assert isinstance(agent, OffPolicyAlgorithm)
        assert policy.action_space.shape is not None
        types = policy.action_space.shape[0]
        actor, critic = policy.network.flops(types), policy.critics.flops(types)
        if isinstance(agent, TD3):  # DDPG too: the actor learns from the first critic, every `policy_delay` steps
            learning = (1 + 3 / agent.policy_delay) * actor + (
                4 * policy.critics.n_critics + 3 / agent.policy_delay
            ) * critic
        else:
            learning = 4 * actor + 7 * policy.critics.n_critics * critic
        steps = agent.gradient_steps / agent.n_envs if agent.gradient_steps >= 0 else 1.0
        return actor + steps * agent.batch_size * learning
    raise InputError(f"the operations of a {type(policy).__name__} are not known")
