"""stable-baselines3's A2C and PPO with defaults for short episodes whose return is what counts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from ackd.agents.set_policy import SetPolicy
from ackd.errors import InputError, unknown

AGENTS: Mapping[str, type[OnPolicyAlgorithm]] = {"a2c": A2C, "ppo": PPO}
LOG_INTERVAL = 1  # for learn(): A2C's own is 100 rollouts, with which a short run logs nothing
UPDATES = 8  # at least so many, if there are episodes enough
EPISODES = {"a2c": 4, "ppo": 8}  # in a rollout, over all environments
COMMON: dict[str, Any] = {"gamma": 1.0, "gae_lambda": 0.95, "normalize_advantage": True, "device": "cpu"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "a2c": COMMON | {"learning_rate": LinearSchedule(4e-3, 0.0, 1.0), "ent_coef": 0.3, "use_rms_prop": False},
    "ppo": COMMON | {"learning_rate": LinearSchedule(3e-3, 0.0, 1.0), "ent_coef": 0.02, "n_epochs": 8},
}


def check_name(name: str) -> None:
    """Refuse a name that `make_agent` does not know, before anything costly happens.

    Raises:
        InputError: if it is not known.
    """
    if name not in AGENTS:
        raise unknown("agent", name, AGENTS)


def make_agent(
    name: str,
    env: gym.Env[Any, Any] | VecEnv,
    *,
    seed: int,
    n_steps: int,
    episodes: int | None = None,
    tensorboard_log: str | None = None,
    **overrides: Any,
) -> OnPolicyAlgorithm:
    """An agent with a `SetPolicy`, ready to `learn(decisions, log_interval=LOG_INTERVAL)`.

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
    batch_size            all       half      of the rollout
    device                cpu       cpu       the network is small
    ====================  ========  ========  =========================================================================

    So PPO is the one to take where a decision costs seconds.

    Args:
        name: `a2c` or `ppo`.
        env: one environment, or several as a `VecEnv`.
        seed: of the weights and the draws; it also seeds the environments.
        n_steps: decisions in an episode; a rollout takes a whole number of them from each environment.
        episodes: how many there will be in all; where they are few, rollouts are shorter, so that there are at least
            `UPDATES` of them, and of a length that divides them.
        tensorboard_log: the folder for curves.
        **overrides: arguments of the algorithm itself that replace defaults.

    Raises:
        InputError: if the name or an argument is not known, or the environment is not one for a `SetPolicy`.
    """
    check_name(name)
    if n_steps < 2:
        raise InputError(f"an episode of {n_steps} decisions leaves nothing to learn: make it at least 2")
    known = inspect.signature(AGENTS[name]).parameters.keys() - {"policy", "env", "self"}
    for argument in overrides:
        if argument not in known:
            raise unknown(f"argument of {name}", argument, known)
    envs = env.num_envs if isinstance(env, VecEnv) else 1
    rollout = n_steps * -(-_episodes_in_rollout(name, episodes) // envs)
    arguments: dict[str, Any] = {"n_steps": rollout, **DEFAULTS[name]}
    if name == "ppo":
        arguments["batch_size"] = rollout * envs // 2
    arguments |= overrides
    return AGENTS[name](SetPolicy, env, seed=seed, tensorboard_log=tensorboard_log, **arguments)


def _episodes_in_rollout(name: str, episodes: int | None) -> int:
    if episodes is None:
        return EPISODES[name]
    return max(n for n in range(1, EPISODES[name] + 1) if n == 1 or (episodes % n == 0 and episodes // n >= UPDATES))


def flops_per_decision(agent: OnPolicyAlgorithm) -> float:
    """Floating-point operations that the agent spends on a decision: one pass to act, three for each epoch of training.

    Raises:
        InputError: if the agent has another policy than a `SetPolicy`.
    """
    policy = agent.policy
    if not isinstance(policy, SetPolicy):
        raise InputError(f"only a SetPolicy's operations are known, not those of a {type(policy).__name__}")
    epochs = agent.n_epochs if isinstance(agent, PPO) else 1
    return (1 + 3 * epochs) * policy.network.flops(policy.bits)
