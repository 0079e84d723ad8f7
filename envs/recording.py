"""A wrapper that writes down every decision and episode, alike for every policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium

from ackd.choices import Action
from ackd.envs.distillation import DistillationEnv
from ackd.envs.recorder import Recorder
from ackd.ledger import Ledger
from ackd.signals import Observation
from ackd.types import Standing


class Recording(gymnasium.Wrapper[Observation, Action, Observation, Action]):
    """An environment whose decisions and episodes a `Recorder` writes down.

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
        self.returned = 0.0  # of the present or the last episode
        self._recorder = Recorder(folder, env.knowledge)
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
        trajectory = self.inner.trajectory
        self._recorder.decision(self._recorder.episodes, trajectory, float(reward), info)
        if terminated or truncated:
            self.standings = {} if info["error/type"] or not self.dev else self._measure_dev()
            self._recorder.episode(trajectory, self.returned, self.standings, self.inner.distillation.ledger)
            self.ledger.add(self.inner.distillation.ledger)
        if self.on_decision is not None:
            assert trajectory.episode is not None
            self.on_decision(trajectory.episode.phases[-1].steps)
        self._since = time.perf_counter()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Finishes the files."""
        self._recorder.close()
        super().close()

    def _measure_dev(self) -> dict[str, Standing]:
        distillation = self.inner.distillation
        return {name: distillation.measure(split, name) for name, split in distillation.task.dev.items()}

    def _count_agent(self, flops: float) -> None:
        if self._since is not None:
            self.inner.distillation.ledger.seconds["agent"] += time.perf_counter() - self._since
            self._since = None
        self.inner.distillation.ledger.spend("agent", flops)
