"""stable-baselines3's algorithms with defaults for short episodes whose return is what counts.

A2C and PPO choose subsets, DDPG, TD3 and SAC give weights.
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
LOG_INTERVAL = 1  # for learn(): A2C's own is 100 rollouts, with which a short run logs nothing
UPDATES = 8  # at least so many, if there are episodes enough
EPISODES = {"a2c": 4, "ppo": 8}  # in a rollout, over all environments
RETURN = 4  # decisions in the returns of the others
RANDOM = 20  # episodes of random weights before the others learn, or an eighth of all if that is less
NOISE = 0.6  # standard deviation of what is added to an action, in stable-baselines3's scale from -1 to 1
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
    """Refuse a name that `make_agent` does not know, before anything costly happens.

    Raises:
        InputError: if it is not known.
    """
    if name not in AGENTS:
        raise unknown("agent", name, AGENTS)


def choice_of(name: str) -> str:
    """The action space that an agent acts in: `subset` or `weights`.

    Raises:
        InputError: if the name is not known.
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

    The defaults were chosen on the toy:

    ====================  ========  ========  =========================================================================
    default               a2c       ppo       why
    ====================  ========  ========  =========================================================================
    rollout               4         8         whole episodes, so that no episode is cut and bootstrapped, and several,
                          episodes  episodes  since advantages are normalised within a rollout
    gamma                 1         1         rewards telescope: the return is what counts, and episodes are short
    gae_lambda            0.95      0.95      hidden states pay only decisions later; 0.85 learns more slowly
    normalize_advantage   yes       yes       rewards differ in size between tasks, and ent_coef has to fit them all
    ent_coef              0.3       0.02      with 0.1 or less A2C stays at hidden+logits giving way to logits, a local
                                              optimum; with 0.4 it stays too random. PPO's clipping does the same
    optimizer             Adam      Adam      its steps do not depend on the size of the gradient
    learning_rate         4e-3 -> 0 3e-3 -> 0 falls in a line over what `learn` is asked for: constant, 4e-3 wavers at
                                              the optimum, and 2e-3 takes longer to get there
    n_epochs              1         8         PPO reuses what was expensive to get, and needs a third of the decisions
    batch_size            all       half      of the rollout; all of it where it has no half, or a half of 1
    device                cpu       cpu       the network is small
    ====================  ========  ========  =========================================================================

    ====================  ===========================  ================================================================
    default               ddpg, td3, sac               why
    ====================  ===========================  ================================================================
    gamma                 1                            as above
    learning_starts       20 episodes of random        every weight at every time is seen before a critic is believed;
                          weights, or 1/8 of all       a short run cannot spare so many
    gradient_steps        1 for each decision          decisions cost more than gradient steps
    learning_rate         3e-3 -> 0                    as above
    optimizer             Adam, eps 1e-4               while the critic knows little, gradients are tiny and all point
                                                       one way; scaled up, as with 1e-8, they bring an actor to say the
                                                       same everywhere: 5 of 16 seeds after 400 decisions, 1 with this
    batch_size, tau       64, 0.05                     episodes are short: a target that lags holds up the bootstrapping
    replay                returns over 4 decisions     what the first decision did shows in no later observation, since
                                                       losses are told against their first value: with 1, what a critic
                                                       learns of it is lost, and DDPG stays near 95 %
    buffer_size           1,000                        such returns are only right for actions like today's: 10,000 is
                                                       slower
    action_noise          normal, 0.6                  with 0.2 TD3 is slow to leave hidden+logits for the switch, and
                                                       so is SAC with its own randomness alone
    ent_coef              3e-4 (sac)                   with 5e-3 weights keep far from 0 and 1, and 11 % are lost; not
                                                       adapted, since the entropy to aim at depends on the mask
    device                cpu                          the network is small
    ====================  ===========================  ================================================================

    Args:
        name: `a2c` or `ppo`, which choose subsets; `ddpg`, `td3` or `sac`, which give weights.
        env: one environment, or several as a `VecEnv`.
        seed: of the weights and the draws; it also seeds the environments.
        n_steps: decisions in an episode; a rollout takes a whole number of them from each environment.
        episodes: how many there will be in all; where they are few, rollouts are shorter, so that there are at least
            `UPDATES` of them, and of a length that divides them; and fewer are random.
        tensorboard_log: the folder for curves.
        **overrides: arguments of the algorithm itself that replace defaults.

    Raises:
        InputError: if the name or an argument is not known, or the environment has other spaces.

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
            # stable-baselines3 wants batches of one size, and more than 1, since it compares advantages within them
            own["batch_size"] = all_of_it if all_of_it % 2 or all_of_it == 2 else all_of_it // 2
    else:
        sizes(env.observation_space, env.action_space)  # stable-baselines3 only asserts it
        random = RANDOM if episodes is None else min(RANDOM, max(1, episodes // UPDATES))
        noise = NormalActionNoise(*(np.full(env.action_space.shape or (), value) for value in (0.0, NOISE)))
        own = {"learning_starts": n_steps * random, "gradient_steps": envs, "action_noise": noise}
        own["policy_kwargs"] = {"optimizer_kwargs": {"eps": 1e-4}}  # its own, since stable-baselines3 writes into it
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

    A pass backwards counts twice a pass forwards. A2C and PPO pass each decision forwards and backwards once for each
    epoch; the others spend gradient steps on batches from their buffer.

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
        if isinstance(agent, TD3):  # DDPG too: the actor learns from the first critic, every so many steps
            learning = (1 + 3 / agent.policy_delay) * actor + (
                4 * policy.critics.n_critics + 3 / agent.policy_delay
            ) * critic
        else:
            learning = 4 * actor + 7 * policy.critics.n_critics * critic
        steps = agent.gradient_steps / agent.n_envs if agent.gradient_steps >= 0 else 1.0
        return actor + steps * agent.batch_size * learning
    raise InputError(f"the operations of a {type(policy).__name__} are not known")
