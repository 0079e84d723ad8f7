"""How many decisions an agent takes to learn the toy, whose optimum needs switching between knowledge types.

    python benchmarks/toy.py --agent a2c --seeds 20 --first-seed 0 --decisions 10000

Each run is evaluated at the marks with its likeliest actions on ten fresh episodes, as a share of their exact optimum.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents import make_agent
from ackd.envs.toy import ToyEnv

EPISODES = range(100_000, 100_010)  # seeds that no run trains on


def toy() -> Monitor:
    return Monitor(ToyEnv())


class Marks(BaseCallback):
    """Evaluates when a mark is passed, at the end of the rollout that passes it."""

    def __init__(self, marks: list[int]) -> None:
        super().__init__()
        self.marks = list(marks)
        self.shares: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # the update of this rollout is still to come, so a mark is read with the policy that it was collected by
        while self.marks and self.num_timesteps >= self.marks[0]:
            self.marks.pop(0)
            self.shares.append(share(self.model))


def share(agent: object) -> float:
    """Mean return over mean optimum of the fresh episodes."""
    returns = []
    for seed in EPISODES:
        env = DummyVecEnv([toy])
        env.seed(seed)
        mean, _ = evaluate_policy(agent, env, 1, deterministic=True)  # type: ignore[arg-type]
        assert isinstance(mean, float)
        returns.append(mean)
    return statistics.fmean(returns) / statistics.fmean(ToyEnv().optimum(seed) for seed in EPISODES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="a2c")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--marks", type=int, nargs="*", default=[1000, 2000, 5000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        agent = make_agent(options.agent, DummyVecEnv([toy] * 4), seed=seed, n_steps=10)
        marks = Marks(options.marks)
        agent.learn(options.decisions, callback=marks)
        rows.append([*marks.shares, share(agent)])
    print("| agent | decisions | runs at 95 % of the optimum | worst | median |")
    print("|---|---|---|---|---|")
    for mark, shares in zip([*options.marks, options.decisions], zip(*rows, strict=True), strict=True):
        reached = sum(value >= 0.95 for value in shares)
        print(
            f"| {options.agent} | {mark} | {reached} of {len(shares)} "
            f"| {min(shares):.3f} | {statistics.median(shares):.3f} |"
        )


if __name__ == "__main__":
    main()
