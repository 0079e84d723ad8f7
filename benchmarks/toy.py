"""Counts the decisions until an agent solves the toy; its optimum needs switches between knowledge types.

    python benchmarks/toy.py --agent a2c --seeds 20 --first-seed 0 --decisions 10000

Each run is evaluated at several points with its likeliest actions on ten new episodes, as a share of the exact optimum.
`cem` and `residual` are evaluated at the end, because they plan for all of their decisions.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents import make_agent, rule
from ackd.agents.actor_critic import AGENTS
from ackd.agents.ksm import Ksm
from ackd.agents.learner import choice_of, make_learner
from ackd.agents.named_bandits import BANDITS, bandit
from ackd.agents.online import learn
from ackd.agents.policy import OnlinePolicy, Policy, Transition
from ackd.envs.toy import ToyEnv

EPISODES = range(100_000, 100_010)  # seeds outside all trainings
ENVS = 4
DECISIONS = 10  # per episode
SPACE = ToyEnv().observation_space


def online(name: str, seed: int) -> OnlinePolicy:
    """An agent that `learn` teaches; bandits have arms for each of the ten decisions."""
    if name in BANDITS:
        return bandit(name, len(ToyEnv().knowledge), seed=seed, decisions=DECISIONS)
    return Ksm(SPACE, state="signals", seed=seed)


ONLINE = ("ksm", *BANDITS)  # agents that `online` makes
PLANNING = {"cem": "weights", "residual": "weights"}
# the toy always uses the labels, so agents only weigh the knowledge types
TOY = {"subset": "subset", "weights": "type-shares", "type-subset": "subset", "type-shares": "type-shares"}
CHOICES = {name: TOY[choice_of(name)] for name in (*AGENTS, *ONLINE)} | PLANNING


class Marks(BaseCallback):
    """Evaluates when a mark is passed, at the end of the rollout that passes it."""

    def __init__(self, marks: list[int], choice: str) -> None:
        super().__init__()
        self.marks, self.choice = list(marks), choice
        self.shares: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # this rollout's update comes later, so the evaluation uses the policy that collected the rollout
        self.read(self.model, self.num_timesteps)

    def read(self, policy: Any, made: int) -> None:
        """Evaluates once for each mark that `made` decisions have passed."""
        while self.marks and made >= self.marks[0]:
            self.marks.pop(0)
            self.shares.append(share(policy, self.choice))


def share(policy: Policy | Any, choice: str) -> float:
    """Mean return over mean optimum of the fresh episodes."""
    envs = [ToyEnv(choice=choice) for _ in EPISODES]
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, EPISODES, strict=True)]
    total, over = 0.0, False
    while not over:
        batch = {name: np.stack([each[name] for each in observations]) for name in observations[0]}
        actions, _ = policy.predict(batch, deterministic=True)
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        observations, over = [step[0] for step in steps], steps[0][2]
        total += sum(step[1] for step in steps)
    return total / sum(ToyEnv().optimum(seed) for seed in EPISODES)


def best_constant() -> tuple[str, float]:
    """The selection that makes most if it is kept throughout, and its share."""
    names = tuple(ToyEnv().knowledge)
    subsets = ["+".join(chosen) for n in range(1, len(names) + 1) for chosen in itertools.combinations(names, n)]
    shares = {subset: share(rule(subset, names), "subset") for subset in ["labels", *subsets]}
    best = max(shares, key=lambda subset: shares[subset])
    return best, shares[best]


def run(name: str, seed: int, decisions: int, marks: list[int]) -> list[float]:
    """Shares at the marks and at the end."""
    choice = CHOICES[name]
    if name in PLANNING:
        envs = DummyVecEnv([lambda: ToyEnv(choice=choice)] * (2 * ENVS))
        types, episodes = len(ToyEnv().knowledge), decisions // DECISIONS
        learner = make_learner(name, envs, types=types, decisions=DECISIONS, episodes=episodes, seed=seed)
        learner.learn(decisions)
        return [share(learner.policy, choice)]
    env, reader = DummyVecEnv([lambda: ToyEnv(choice=choice)] * ENVS), Marks(marks, choice)
    if name in ONLINE:
        env.seed(seed)
        policy = online(name, seed)

        def on_step(made: int, transition: Transition) -> None:
            reader.read(policy, made)

        learn(policy, env, decisions, on_step)
        return [*reader.shares, share(policy, choice)]
    agent = make_agent(name, env, seed=seed, n_steps=DECISIONS).learn(decisions, callback=reader)
    return [*reader.shares, share(agent, choice)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="a2c", choices=[*AGENTS, *ONLINE, *PLANNING])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--marks", type=int, nargs="*", default=[1000, 2000, 5000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    marks = [mark for mark in options.marks if mark < options.decisions and options.agent not in PLANNING]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = [run(options.agent, seed, options.decisions, marks) for seed in seeds]
    print("| agent | decisions | runs at 95 % of the optimum | worst | median |")
    print("|---|---|---|---|---|")
    for mark, shares in zip([*marks, options.decisions], zip(*rows, strict=True), strict=True):
        reached = sum(value >= 0.95 for value in shares)
        print(
            f"| {options.agent} | {mark} | {reached} of {len(shares)} "
            f"| {min(shares):.3f} | {statistics.median(shares):.3f} |"
        )
    name, value = best_constant()
    print(f"\nThe best constant selection, {name}, makes {value:.3f} of the optimum.")


if __name__ == "__main__":
    main()
