"""What a policy earns in the toy, as many tests ask it."""

from __future__ import annotations

import numpy as np

from ackd.agents.policy import Policy
from ackd.envs.toy import ToyEnv


def toy() -> ToyEnv:
    """With weights as actions."""
    return ToyEnv(choice="weights")


def share(policy: Policy, seeds: range) -> float:
    """Of the optimum, what a policy earns."""
    shares = []
    for seed in seeds:
        env = toy()
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = policy.predict(observation, deterministic=True)
            observation, reward, over, _, _ = env.step(action)
            total += reward
        shares.append(total / env.optimum(seed))
    return float(np.mean(shares))
