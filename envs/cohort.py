"""A cohort as a vector environment of stable-baselines3: N students in one batched step, one trajectory each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from ackd.cohort.cohort import Cohort
from ackd.envs.checks import check_actions
from ackd.envs.distillation import DistillationEnv
from ackd.envs.replay import Record, replay_together
from ackd.envs.shared import SharedEnv
from ackd.envs.trajectory import Answer, Trajectory
from ackd.errors import InputError
from ackd.mdp.episode import Phase
from ackd.mdp.observations import Observation
from ackd.training.replay_log import ReplayLog
from ackd.types import EvalResult, Selection

Watch = Callable[["CohortEnv", NDArray[np.float32], Sequence[dict[str, Any]]], None]


class CohortEnv(SharedEnv):
    """N students that train side by side on the same batches, each under its own decisions.

    Each student behaves as in its own `DistillationEnv`, except that all share the order of the data. A student that
    diverges drops out: its return is `ERROR_RETURN`, whatever it earned before. It then earns nothing until the others
    finish, because all episodes end together.

    Args:
        envs: one environment for each setting; with several, episodes use them in turn.
        students: the number of students, N.
        blocks: first seed and number of seeds for each environment; students take them in turn. Drawn if not given.
        shard: (first, stride): this cohort takes the turns first, first + stride, ...; other cohorts take the rest.
        paired: all students of an episode take one seed, so that only their decisions and dropout differ.
        watch: called with rewards and infos after every decision, before the automatic reset at an episode's end.
        seed: of the generator that draws the episodes' seeds, unless `blocks` or a call of `seed` sets them.

    Raises:
        InputError: if there is no environment or no student, or the action spaces differ.
    """

    def __init__(
        self,
        envs: Sequence[DistillationEnv],
        students: int,
        *,
        blocks: Sequence[tuple[int, int]] = (),
        shard: tuple[int, int] = (0, 1),
        paired: bool = False,
        watch: Watch | None = None,
        seed: int = 0,
    ) -> None:
        if not envs or any(env.choice.space != envs[0].choice.space for env in envs):
            raise InputError("a cohort needs at least one environment, and the same action space in all of them")
        self.envs, self.blocks, self.paired, self.watch = envs, blocks, paired, watch
        self._cohorts: dict[int, Cohort] = {}  # by the index of the environment
        self._size = students
        self.turns, self._stride = shard  # this cohort's next turn, counted over all cohorts
        self._journal: ReplayLog | None = None  # shared by all cohorts, one after the other
        self._generator = np.random.default_rng(seed)
        self._started = 0.0  # when the episode began
        self._actions: NDArray[Any] = np.zeros(0)
        self.on_phase: Callable[[Sequence[Phase], int], object] | None = None  # receives all phases, and all steps
        self.render_mode: str | None = None  # read by the constructor of VecEnv
        self._enter(0)
        super().__init__(students, self.signals.space, self.choice.space)

    def _enter(self, place: int) -> None:
        """Switches to the cohort of the environment with this index."""
        if place not in self._cohorts:
            self._cohorts[place] = Cohort(self.envs[place].distillation, self._size)
        self.env, self.cohort = self.envs[place], self._cohorts[place]
        self.cohort.replay(self._journal)
        self.knowledge, self.signals, self.choice = self.env.knowledge, self.env.signals, self.env.choice
        self.trajectories = [Trajectory(self.signals, self.choice, self.env.reward) for _ in range(self._size)]

    @property
    def training(self) -> Cohort:
        """The cohort that trains at present."""
        return self.cohort

    @property
    def decisions(self) -> int:
        """The number of decisions in an episode."""
        return self.env.decisions

    def replay(self, replay_log: ReplayLog | None) -> None:
        """Sets the replay log, as in `DistillationEnv`; all cohorts share it, one after the other."""
        self._journal = replay_log
        self.cohort.replay(replay_log)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """The next N students take the seeds `seed`, `seed + 1`, ...; later seeds are drawn from `seed`."""
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        return super().seed(seed)

    def reset(self) -> Observation:
        """Begins N new students in the next setting.

        Raises:
            InputError: if options have been set; there are none.
        """
        options = dict.fromkeys(name for one in self._options for name in one)
        self._reset_options()
        if options:
            raise InputError(f"reset takes no options, got {', '.join(map(str, options))}")
        place, before = self.turns % len(self.envs), self.turns // len(self.envs) * self._size
        self._enter(place)
        self.turns += self._stride
        seeds = [int(self._generator.integers(2**31)) if given is None else given for given in self._seeds]
        if self.blocks:
            first, count = self.blocks[place]
            seeds = [first + (before + student) % count for student in range(self._size)]
            if self.paired:
                seeds[0] = first + before // self._size % count
        if self.paired:
            seeds = [seeds[0]] * self._size
        self._reset_seeds()
        return self.begin(seeds)

    def begin(self, seeds: Sequence[int]) -> Observation:
        """Begins a new student for each seed in the present setting."""
        self._started = time.time()
        cohort = self.cohort
        cohort.reset(seeds)
        starts: Sequence[EvalResult | None] = [None] * self.num_envs
        teacher = None
        if self.env.timetable.reward_every is not None:
            starts = cohort.evaluate(self.env.timetable.measured_split, "reward")
            if cohort.distillation.reference is not None:
                teacher = cohort.measure_teacher(self.env.timetable.measured_split, "reward")
        facts = cohort.facts()
        began = [
            trajectory.begin(self.env.begun(start, teacher, facts), seed)
            for trajectory, start, seed in zip(self.trajectories, starts, seeds, strict=True)
        ]
        self.reset_infos = [info for _, info in began]
        cohort.counts.shown()
        return _stacked([observation for observation, _ in began])

    def step_async(self, actions: NDArray[Any]) -> None:
        """Stores the decisions, [N, K_max], for `step_wait`.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
            InputError: if there is not one action for each student, or an action is not in the action space.
        """
        if self.trajectories[0].episode is None:
            raise ResetNeeded("no episode has begun: call reset()")
        self._actions = check_actions(self.action_space, actions, self.num_envs)
        self.cohort.counts.decided()

    def step_wait(self) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Trains until the next decision; at the end of the budget resets itself, as a VecEnv does."""
        steps = self.decide(self._actions)
        observations, rewards = [step[0] for step in steps], np.array([step[1] for step in steps], dtype=np.float32)
        infos = [step[3] for step in steps]
        over = self.cohort.steps_done >= self.cohort.steps
        if self.watch is not None:
            self.watch(self, rewards, infos)
        if over:
            elapsed = round(time.time() - self._started, 6)
            for trajectory, observation, info in zip(self.trajectories, observations, infos, strict=True):
                returned = float(np.sum(trajectory.record().rewards))
                info |= {
                    "terminal_observation": observation,
                    "TimeLimit.truncated": False,
                    "episode": {"r": returned, "l": self.decisions, "t": elapsed},  # as Monitor has it
                }
        following = self.reset() if over else _stacked(observations)
        self.cohort.counts.shown()
        return following, rewards, np.full(self.num_envs, over), infos

    def decide(self, actions: NDArray[Any]) -> list[Answer]:
        """Trains until the next decision; returns each student's observation, reward, end and info."""
        out = [trajectory.over for trajectory in self.trajectories]
        selections = [
            Selection() if gone else trajectory.decide(action)
            for trajectory, action, gone in zip(self.trajectories, actions, out, strict=True)
        ]
        cohort = self.cohort
        phases, wanted = self.env.timetable.until(cohort.steps_done)
        for left in reversed(range(phases)):
            before = cohort.steps_done
            done = self._phase(selections)
            alive = [not trajectory.over for trajectory in self.trajectories]
            eval_results: Sequence[EvalResult | None] = [None] * self.num_envs
            if wanted and not left:
                eval_results = cohort.evaluate(self.env.timetable.measured_split, "reward")
            for trajectory, parts, eval_result in zip(self.trajectories, done, eval_results, strict=True):
                if trajectory.over:  # it trains on, but nothing is recorded
                    continue
                for part in parts[:-1]:
                    trajectory.then(part)
                trajectory.then(replace(parts[-1], eval_result=eval_result if parts[-1].finite else None))
            if self.on_phase is not None:
                now = [one.latest[-1].episode.phases[-1] for one in compress(self.trajectories, alive)]
                self.on_phase(now, (cohort.steps_done - before) * self.num_envs)
        return [
            trajectory.skipped() if gone else trajectory.answer()
            for trajectory, gone in zip(self.trajectories, out, strict=True)
        ]

    def inherit(self, parents: Sequence[int]) -> None:
        """Replaces each student by a copy of its parent, between two decisions; earned rewards are copied too.

        Args:
            parents: the index of each student's parent, which may be itself.

        Raises:
            InputError: if there are not as many parents as students.
        """
        self.cohort.inherit(parents)
        states = [trajectory.state_dict() for trajectory in self.trajectories]
        for trajectory, parent in zip(self.trajectories, parents, strict=True):
            trajectory.load_state_dict(states[parent])

    def record(self) -> list[Record]:
        """Each student's episode so far, for `validate`."""
        return [trajectory.record() for trajectory in self.trajectories]

    def validate(self, records: Sequence[Record]) -> bool:
        """True if the students, replayed together in the present setting, earn the rewards of their records.

        A record may end before the others only if its student diverged.
        """
        return replay_together(self.fork(), records)

    def fork(self) -> CohortEnv:
        """An independent copy in the same state, without `watch` and without a replay log."""
        twin = CohortEnv(
            self.envs, self._size, blocks=self.blocks, shard=(self.turns, self._stride), paired=self.paired
        )
        twin.load_state_dict(self.state_dict())
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Everything that this episode and later episodes depend on."""
        return {
            "place": next(place for place, env in enumerate(self.envs) if env is self.env),
            "turns": self.turns,
            "generator": self._generator.bit_generator.state,
            "cohort": self.cohort.state_dict(),
            "trajectories": [trajectory.state_dict() for trajectory in self.trajectories],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict` of a cohort environment with the same arguments."""
        self._enter(state["place"])
        self.turns = state["turns"]
        self._generator.bit_generator.state = state["generator"]
        self.cohort.load_state_dict(state["cohort"])
        for trajectory, one in zip(self.trajectories, state["trajectories"], strict=True):
            trajectory.load_state_dict(one)

    def _phase(self, selections: Sequence[Selection]) -> list[list[Phase]]:
        """Trains one phase; returns each student's phases, two where its budget cuts the selection.

        All students train up to the next cut of any student; parts under the same selection are then joined.
        """
        cohort, counts = self.cohort, self.cohort.counts
        plans = [
            self.env.timetable.affordable(selection, seed=counts.seeds[0], done=counts.steps_done, spent=spent)
            for selection, spent in zip(selections, counts.prices, strict=True)
        ]
        cuts = {plan[0][1] for plan in plans} | {self.env.timetable.decision_interval}
        found: list[list[Phase]] = [[] for _ in plans]
        begin = 0
        for end in sorted(cuts):
            done, prices, price_of_all = counts.steps_done, list(counts.prices), counts.price_of_all
            learning_rate = cohort.distillation.recipe.rate(done, cohort.steps)
            now = [plan[begin >= plan[0][1]][0] for plan in plans]
            reports = cohort.advance(now, end - begin)
            counts = cohort.counts  # a new object if a checkpoint was loaded
            for i, parts in enumerate(found):
                phase = Phase(
                    now[i],
                    reports[i],
                    None,
                    steps=counts.steps_done - done,
                    learning_rate=learning_rate,
                    flops=counts.prices[i] - prices[i],
                    flops_all=counts.price_of_all - price_of_all,
                )
                if parts and parts[-1].selection == phase.selection:
                    parts[-1] = _joined(parts[-1], phase)
                elif not parts or parts[-1].finite:  # nothing is recorded after divergence
                    parts.append(phase)
            begin = end
        return found


def _joined(first: Phase, second: Phase) -> Phase:
    """Joins two consecutive phases under the same selection."""
    steps = first.steps + second.steps
    pairs = zip(first.report.numbers, second.report.numbers, strict=True)
    return replace(
        first,
        report=first.report.of((one * first.steps + other * second.steps) / steps for one, other in pairs),
        steps=steps,
        flops=first.flops + second.flops,
        flops_all=first.flops_all + second.flops_all,
    )


def _stacked(observations: Sequence[Observation]) -> Observation:
    return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
