"""`ackd train`: an agent that learns what to select."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ackd.cli.options import DataOptions, OutputOptions, StudentOptions, progress

if TYPE_CHECKING:
    from ackd.envs.recording import Recording


@dataclass(kw_only=True)
class Train(DataOptions, StudentOptions, OutputOptions):
    """Train a selection agent over several students' trainings, then distil one student with what it learned."""

    task: str
    """A GLUE task, a generated one (polarity, tally), or any name where --data is a file."""
    teacher: tuple[str, ...]
    """The teacher: folder of a fine-tuned model, a run that holds one, or a hub id. Several teach side by side."""
    teacher_weights: tuple[float, ...] = ()
    """What each teacher's losses count; 1 each if not given."""
    agent: str = "a2c"
    """Learning algorithm: a2c or ppo."""
    episodes: int = 8
    """Students that the agent learns from, each trained for --steps."""
    seed: int = 0
    """Seed of the agent and of its episodes."""

    def run(self) -> None:
        """Trains the agent, distils a student with it, and saves both."""
        from stable_baselines3.common.monitor import Monitor

        from ackd.agents import actor_critic, store
        from ackd.agents.set_policy import SetPolicy
        from ackd.cli.episodes import run_episode
        from ackd.cli.results import finish
        from ackd.envs.make import distill
        from ackd.envs.recording import Recording
        from ackd.errors import InputError
        from ackd.models import load_tokenizer
        from ackd.runs import RunFolder

        inputs = (*self.teacher, self.student, self.data, self.cache)
        folder = RunFolder(self.output, overwrite=self.overwrite, inputs=inputs)
        if self.episodes < 1:
            raise InputError(f"the agent needs at least 1 episode, got {self.episodes}")
        actor_critic.check_name(self.agent)
        env = distill(
            task=self.task,
            teacher=self.teacher,
            teacher_weights=self.teacher_weights,
            **self.data_settings(),
            **self.student_settings(),
        )
        if env.decisions < 2:
            raise InputError(f"{self.steps} steps are a single decision of {self.decision_interval}: raise --steps")
        folder.begin("train", asdict(self))
        started = time.perf_counter()
        with (
            progress((self.episodes + 1) * self.steps, f"train ({self.agent})") as bar,
            closing(Recording(env, folder.path, on_decision=bar.update)) as recording,
        ):
            agent = actor_critic.make_agent(
                self.agent,
                Monitor(recording),
                seed=self.seed,
                n_steps=env.decisions,
                episodes=self.episodes,
                tensorboard_log=str(folder.path / "tensorboard"),
            )
            recording.agent_flops = actor_critic.flops_per_decision(agent)
            agent.learn(self.episodes * env.decisions, log_interval=1, tb_log_name="agent")
            (folder.path / "checkpoint").mkdir()
            agent.save(folder.path / "checkpoint" / "agent.zip")
            run_episode(recording, agent, seed=self.seed)
        seconds = time.perf_counter() - started
        assert isinstance(agent.policy, SetPolicy)
        store.save(
            folder.path / "policy",
            agent.policy.network,
            algorithm=self.agent,
            knowledge=env.knowledge,
            k_max=env.signals.k_max,
            instances=[self._instance()],
            metrics=self._metrics(recording),
            cost={"episodes": self.episodes, "student_steps": self.episodes * self.steps, "seconds": round(seconds, 3)},
        )
        tokenizer = load_tokenizer(self.teacher[0])
        finish(folder, recording, tokenizer, policy=self.agent, episodes=self.episodes, seconds=seconds)
        print(f"policy:  {folder.path / 'policy'}\ncurves:  tensorboard --logdir {folder.path}")

    def _instance(self) -> dict[str, Any]:
        """What the policy learned on, without the paths of this machine: the file is there to be shared."""
        private = ("output", "overwrite", "data", "dev_data", "device", "cache")
        settings = {name: value for name, value in asdict(self).items() if name not in private}
        names = [Path(teacher).name for teacher in self.teacher]
        return settings | {"teacher": names, "student": self.student and Path(self.student).name}

    def _metrics(self, recording: Recording) -> dict[str, Any]:
        """How the learned policy did in the episode after its training; scores from 0 to 1."""
        dev = {split: dict(standing.scores) for split, standing in recording.standings.items()}
        return {"episodes": self.episodes, "reward": recording.returned, "dev": dev}
