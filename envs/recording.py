"""A wrapper that writes down every decision and episode, alike for every policy."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
from torch.utils.tensorboard import SummaryWriter

from ackd.choices import Action
from ackd.envs.distillation import DistillationEnv
from ackd.ledger import PARTS, Ledger
from ackd.signals import Observation
from ackd.types import Standing

COLUMNS = (
    "episode",
    "seed",
    "decision",
    "steps_done",
    "selection",
    "reward",
    "improvement",
    "cost",
    "bonus",
    "reward_loss",
    "reward_score",
    "label_loss",
    "grad_norm",
    "learning_rate",
    "flops",
    "flops_share",
    "error",
)


class Recording(gymnasium.Wrapper[Observation, Action, Observation, Action]):
    """Writes TensorBoard curves and `decisions.csv`; `docs/metrics.md` explains every tag.

    Args:
        env: what is recorded.
        folder: a run's folder.
        dev: measure dev when an episode ends; for the record only, the agent never sees it.
        agent_flops: what the agent spends on a decision, its updates included.
        on_decision: is told the optimizer steps of each phase, as for a progress bar.
    """

    def __init__(
        self,
        env: DistillationEnv,
        folder: Path,
        *,
        dev: bool = True,
        agent_flops: float = 0.0,
        on_decision: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__(env)
        self.inner = env
        self.dev = dev
        self.agent_flops = agent_flops
        self.on_decision = on_decision
        self.ledger = Ledger()  # of all episodes
        self.standings: dict[str, Standing] = {}  # on dev, at the end of the last episode
        self.episodes = 0
        self.decisions = 0
        self.returned = 0.0  # of the present or the last episode
        self._writer = SummaryWriter(str(folder / "tensorboard" / "env"), flush_secs=5)
        path = folder / "decisions.csv"
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()
        self._since: float | None = None  # when the agent was last handed an observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode."""
        self._count_agent(0.0)
        answer = super().reset(seed=seed, options=options)
        self.returned = 0.0
        self._since = time.perf_counter()
        return answer

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes the step, then writes it down."""
        self._count_agent(self.agent_flops)
        observation, reward, terminated, truncated, info = super().step(action)
        self.returned += float(reward)
        self.decisions += 1
        self._write_decision(float(reward), info)
        if terminated or truncated:
            self._write_episode(info)
        if self.on_decision is not None:
            assert self.inner.episode is not None
            self.on_decision(self.inner.episode.phases[-1].steps)
        self._since = time.perf_counter()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Finishes the files."""
        self._writer.close()
        self._file.close()
        super().close()

    def _count_agent(self, flops: float) -> None:
        if self._since is not None:
            self.inner.distillation.ledger.seconds["agent"] += time.perf_counter() - self._since
            self._since = None
        self.inner.distillation.ledger.spend("agent", flops)

    def _write_decision(self, reward: float, info: dict[str, Any]) -> None:
        episode = self.inner.episode
        assert episode is not None
        phase = episode.phases[-1]
        chosen = phase.selection.weights
        self._scalars(
            self.decisions,
            {
                "env/reward/total": reward,
                **{f"env/{name}": info[name] for name in ("reward/improvement", "reward/cost", "reward/bonus")},
                "env/loss/labels": info["loss/labels"],
                **{f"env/loss/{name}": info[f"loss/{name}"] for name in phase.report.losses},
                **{f"env/select/{name}": chosen.get(name, 0.0) for name in self.inner.knowledge},
                "env/reward_split/loss": info["reward_split/loss"],
                "env/reward_split/score": info["reward_split/score"],
                "env/grad_norm": info["grad_norm"],
                "env/learning_rate": phase.learning_rate,
                "env/flops_share": info["flops_share"],
            },
        )
        self._rows.writerow(
            {
                "episode": self.episodes,
                "seed": self.inner.distillation.seed,
                "decision": len(episode.phases) - 1,
                "steps_done": episode.steps_done,
                "selection": info["action/effective"],
                "reward": reward,
                "improvement": info["reward/improvement"],
                "cost": info["reward/cost"],
                "bonus": info["reward/bonus"],
                "reward_loss": info["reward_split/loss"],
                "reward_score": info["reward_split/score"],
                "label_loss": info["loss/labels"],
                "grad_norm": info["grad_norm"],
                "learning_rate": phase.learning_rate,
                "flops": phase.flops,
                "flops_share": info["flops_share"],
                "error": info["error/type"],
            }
        )
        self._file.flush()

    def _write_episode(self, info: dict[str, Any]) -> None:
        episode, distillation = self.inner.episode, self.inner.distillation
        assert episode is not None
        diverged = bool(info["error/type"])
        self.standings = {}
        if self.dev and not diverged:
            self.standings = {name: distillation.measure(split, name) for name, split in distillation.task.dev.items()}
        ledger, phases = distillation.ledger, episode.phases
        seconds = sum(ledger.seconds.values())
        self._scalars(
            self.episodes,
            {
                "episode/return": self.returned,
                "episode/diverged": float(diverged),
                "episode/reward_split/loss": info["reward_split/loss"],
                "episode/reward_split/score": info["reward_split/score"],
                "episode/flops_share": sum(p.flops for p in phases) / sum(p.flops_all for p in phases),
                **{
                    f"episode/select/{name}": sum(name in p.selection.chosen for p in phases) / len(phases)
                    for name in self.inner.knowledge
                },
                **{
                    f"episode/dev/{split}/{metric}": value
                    for split, standing in self.standings.items()
                    for metric, value in standing.scores.items()
                },
                **{f"cost/flops/{part}": ledger.flops[part] for part in PARTS},
                **{f"cost/bytes/{part}": ledger.bytes[part] for part in PARTS},
                **{f"cost/seconds/{part}": ledger.seconds[part] for part in PARTS},
                **{f"cost/time_share/{part}": ledger.seconds[part] / seconds for part in PARTS},
            },
        )
        self._writer.flush()
        self.ledger.add(ledger)
        self.episodes += 1

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
