"""Distillation as a Gymnasium environment: one episode is one student's training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ackd.envs.checks import check_render_mode
from ackd.envs.replay import Record, claim_of, replays
from ackd.envs.timetable import Timetable, measured
from ackd.envs.trajectory import ERROR_RETURN, Trajectory
from ackd.errors import InputError
from ackd.mdp.action_spaces import Action, Choice, make_choice
from ackd.mdp.episode import Episode, Facts, Phase
from ackd.mdp.observations import LIMIT, Observation, Signals
from ackd.mdp.rewards import GapClosed, Reward, for_language, without_gap
from ackd.tasks import check_rewards
from ackd.training.budget import type_prices
from ackd.training.distillation import Distillation
from ackd.training.replay_log import ReplayLog
from ackd.types import LABELS, EvalResult, Selection

logger = logging.getLogger("ackd")

__all__ = ["DECISIONS", "ERROR_RETURN", "DistillationEnv", "Record", "measured"]

DECISIONS = 4  # in an episode; 64 students are too few to learn many more
CLS = ("student_cls", "teacher_cls")


class DistillationEnv(gymnasium.Env[Observation, Action]):
    """A student's training as an environment: an agent decides what is transferred in each part of it.

    Args:
        distillation: the training of one student.
        decision_interval: optimizer steps in a phase, the shortest duration of a decision; each phase is recorded.
        decisions: number of decisions in an episode, spread evenly over its phases; None: one for each phase.
        reward: computes what a decision earns.
        choice: `subset` (`MultiBinary`), `levels` (`MultiDiscrete`) or `weights` (`Box`) over labels and types,
            `type-subset` or `type-shares` over types alone, or your own action space, such as `Stages`.
        k_max: length of the action; entries beyond labels and knowledge types are masked.
        levels: weights of the choice `levels`.
        reward_every: decisions between measurements on the reward split; the end is always measured. None measures
            nothing; rewards are then minus the cost.
        reward_share: the share of the reward split that is measured, always the same examples.
        observe_cls: also observe `student_cls` and `teacher_cls`, the mean first-token output of the last layers over
            the latest batch, clipped to [-10, 10]. `ksm` decides from them. They take two forward passes a decision.
        flops_budget: FLOPs that a run may spend, as a share of what transferring everything throughout takes. A
            selection is trained only as long as labels alone still fit after it (`ackd.training.budget.Allowance`).
            The other steps use labels alone, with the selection's label weight or else 1, as a phase of their own.
        render_mode: must be None; Gymnasium may pass it.

    The end of the budget and divergence are `terminated`; nothing is ever `truncated`. After divergence the last
    reward makes the whole return `ERROR_RETURN`, and `info["error/type"]` is `divergence`.

    Raises:
        InputError: if `k_max` holds fewer entries than there are knowledge types, a number is out of range, or a
            render mode is given.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name and type

    anew: Callable[[], DistillationEnv] | None = None  # builds it again, if its arguments are plain

    def __init__(
        self,
        distillation: Distillation,
        *,
        decision_interval: int = 20,
        decisions: int | None = DECISIONS,
        reward: Reward | None = None,
        choice: str | Choice = "subset",
        k_max: int = 8,
        levels: Sequence[float] | None = None,
        reward_every: int | None = 1,
        reward_share: float = 1.0,
        observe_cls: bool = False,
        flops_budget: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        families = {name: one.family for name, one in distillation.distiller.knowledge.items()}
        self.distillation, self.levels, self.knowledge = distillation, levels, tuple(families)
        self.timetable = Timetable(distillation, decision_interval, decisions, reward_every, reward_share, flops_budget)
        if reward_every is not None:
            check_rewards(distillation.task)
        families = {LABELS: LABELS, **families}
        self.choice = make_choice(choice, tuple(families), k_max, levels)
        seen = {name: families[name] for name in self.choice.names or families}
        self.signals = Signals(seen, type_prices(distillation), k_max)
        earned = reward or GapClosed()
        earned = for_language(earned) if distillation.task.spec.language else earned
        self.trajectory = Trajectory(self.signals, self.choice, earned)
        self.observe_cls = observe_cls
        self._warned = False  # about a missing gap
        space = self.signals.space
        if observe_cls:
            if distillation.reference is None:
                raise InputError("there is no teacher whose first-token outputs could be observed: name one")
            self._widths = distillation.student.model.config.hidden_size, distillation.teachers[0].shape.width
            for name, width in zip(CLS, self._widths, strict=True):
                space.spaces[name] = spaces.Box(-LIMIT, LIMIT, (width,), np.float32)
        self.observation_space: spaces.Space[Any] = space
        self.action_space = self.choice.space

    @property
    def episode(self) -> Episode | None:
        """The episode so far; None before the first."""
        return self.trajectory.episode

    @property
    def reward(self) -> Reward:
        """The reward function."""
        return self.trajectory.reward

    @property
    def decisions(self) -> int:
        """The number of decisions in an episode."""
        return len(self.timetable.ends)

    def begun(self, start: EvalResult | None, teacher: EvalResult | None, facts: Facts | None) -> Episode:
        """A new episode without phases; logs a warning the first time that there is no gap to close."""
        steps, table = self.distillation.steps, self.timetable
        episode = Episode(start, teacher, steps, table.decision_interval, decisions=table.most_decisions, facts=facts)
        if not self._warned and (warning := without_gap(self.reward, episode)):
            self._warned = True
            logger.warning(warning)
        return episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins with a new student; `seed` determines its initialisation, data order and dropout.

        Raises:
            InputError: if options are given; there are none.
        """
        super().reset(seed=seed)
        if options:
            raise InputError(f"reset takes no options, got {', '.join(map(str, options))}")
        distillation = self.distillation
        distillation.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        start = teacher = None
        if self.timetable.reward_every is not None:
            start = distillation.evaluate(self.timetable.measured_split, "reward")
            if distillation.reference is not None:
                teacher = distillation.measure_teacher(self.timetable.measured_split, "reward")
        episode = self.begun(start, teacher, distillation.facts())
        observation, info = self.trajectory.begin(episode, distillation.counts.seeds[0])
        return observation | self._represent(), info

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Trains under the action's selection until the next decision.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset and after the end of an episode.
            InputError: if the action is not in the action space.
        """
        trajectory = self.trajectory
        if trajectory.over:
            raise gymnasium.error.ResetNeeded("the episode has not begun or has ended: call reset()")
        for phase in self._phases(trajectory.decide(action)):
            trajectory.then(phase)
        observation, reward, terminated, info = trajectory.answer()
        return observation | self._represent(), reward, terminated, False, info

    def replay(self, replay_log: ReplayLog | None) -> None:
        """Sets the replay log: logged calls return their logged results, new calls are recorded. None: no log."""
        self.distillation.replay(replay_log)

    def action_masks(self) -> NDArray[np.bool_]:
        """The allowed values of an action; see `Trajectory.action_masks`."""
        return self.trajectory.action_masks()

    def record(self) -> Record:
        """The episode so far, for `validate`."""
        return self.trajectory.record()

    def validate(self, record: Record) -> bool:
        """True if replaying a record's actions from its seed, on a fork, earns the rewards that it claims."""
        if (claim := claim_of(record, self.action_space)) is None:
            return False
        replay = self.fork()
        replay.reset(seed=claim.seed)
        return replays(replay, claim)

    def state_dict(self) -> dict[str, Any]:
        """Everything that this episode and later episodes depend on."""
        return {
            "distillation": self.distillation.state_dict(),
            "trajectory": self.trajectory.state_dict(),
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict` of an environment with the same arguments."""
        self.distillation.load_state_dict(state["distillation"])
        self.trajectory.load_state_dict(state["trajectory"])
        self.np_random.bit_generator.state = state["np_random"]

    def fork(self) -> DistillationEnv:
        """An independent copy in the same state; data and teachers are shared because they never change."""
        twin = self.variant(distillation=self.distillation.fork())
        twin.load_state_dict(self.state_dict())
        twin.spec, twin.anew = self.spec, self.anew
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles arguments and state only; unpickling loads data and teachers again."""
        if self.anew is None:
            return super().__reduce_ex__(protocol)
        return _restored, (self.anew, self.state_dict(), self.spec)

    def variant(self, **changes: Any) -> DistillationEnv:
        """A new environment with the same arguments except for `changes`; it shares the distillation by default."""
        arguments: dict[str, Any] = {
            "distillation": self.distillation,
            "decision_interval": self.timetable.decision_interval,
            "decisions": self.timetable.most_decisions,
            "reward": self.reward,
            "choice": self.choice,
            "k_max": self.signals.k_max,
            "levels": self.levels,
            "reward_every": self.timetable.reward_every,
            "reward_share": self.timetable.reward_share,
            "observe_cls": self.observe_cls,
            "flops_budget": self.timetable.flops_budget,
        }
        if changes.get("choice", "levels") != "levels":
            arguments["levels"] = None
        return DistillationEnv(**arguments | changes)

    def _represent(self) -> Observation:
        if not self.observe_cls:
            return {}
        try:
            states = [np.nan_to_num(np.array(state, dtype=np.float32)) for state in self.distillation.represent()]
        except (ValueError, TypeError):
            states = []
        if [state.shape for state in states] != [(width,) for width in self._widths]:
            raise InputError("the log of this run has first-token outputs of other models: start the run anew")
        return {name: state.clip(-LIMIT, LIMIT) for name, state in zip(CLS, states, strict=True)}

    def _phases(self, selection: Selection) -> Iterator[Phase]:
        """Trains until the next decision or divergence; measures the reward split at the end if that is due."""
        distillation = self.distillation
        phases, wanted = self.timetable.until(distillation.steps_done)
        for left in reversed(range(phases)):
            counts = distillation.counts
            parts = self.timetable.affordable(
                selection, seed=counts.seeds[0], done=counts.steps_done, spent=counts.price
            )
            for place, (part, steps) in enumerate(parts, 1):
                done, price, price_of_all = counts.steps_done, counts.price, counts.price_of_all
                learning_rate = distillation.recipe.rate(done, distillation.steps)
                report, eval_result = distillation.advance(part, steps), None
                counts = distillation.counts  # a new object if a checkpoint was loaded
                if wanted and report.finite and not left and place == len(parts):
                    eval_result = distillation.evaluate(self.timetable.measured_split, "reward")
                phase = Phase(
                    part,
                    report,
                    eval_result,
                    steps=counts.steps_done - done,
                    learning_rate=learning_rate,
                    flops=counts.price - price,
                    flops_all=counts.price_of_all - price_of_all,
                )
                yield phase
                if not phase.finite:
                    return


def _restored(anew: Callable[[], DistillationEnv], state: Mapping[str, Any], spec: Any) -> DistillationEnv:
    env = anew()
    env.load_state_dict(state)
    env.spec = spec
    return env
