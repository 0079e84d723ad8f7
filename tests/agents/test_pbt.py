"""Population based training: who is copied, what changes, whose history it answers; on paper and on real students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from ackd.agents.best_schedule import LOGS
from ackd.agents.evolving import Pbt
from ackd.agents.learner import by_return, check_learner, choice_of, make_learner
from ackd.agents.leave_one_out import LeaveOneOutBaseline
from ackd.agents.pbt import Evolution, Lineage, evolve
from ackd.cohort.cohort import Cohort
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import tiny
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.action_spaces import weights_of
from ackd.training.distiller import Distiller
from ackd.training.replay_log import ReplayLog
from ackd.types import LABELS, Selection

FAMILIES = {"labels": "labels", "logits": "logits", "hidden": "hidden", "values": "relation", "hidden-cosine": "hidden"}
COLUMNS = ("labels", "logits", "hidden", "relation")


class Diaries:
    """Students that remember what they were trained under; worth more, the nearer that was to what each phase wants."""

    def __init__(self, steps: int = 10) -> None:
        self.steps = steps
        self.diaries: list[list[Selection]] = []
        self.copied: list[Sequence[int]] = []

    def reset(self, seeds: Sequence[int]) -> None:
        self.diaries = [[] for _ in seeds]

    def advance(self, selections: Sequence[Selection], steps: int) -> None:
        self.diaries = [[*own, one] for own, one in zip(self.diaries, selections, strict=True)]

    def inherit(self, parents: Sequence[int]) -> None:
        self.copied.append(parents)
        self.diaries = [self.diaries[parent] for parent in parents]

    def scores(self) -> list[float]:
        def worth(one: Selection, phase: int) -> float:
            return -abs(math.log2(max(one.weights.get("hidden", 0.0), 0.1)) - (2.0 if phase < 2 else -2.0))

        return [sum(worth(one, phase) for phase, one in enumerate(own)) for own in self.diaries]


@pytest.mark.parametrize("seed", range(5))
def test_the_answer_is_the_history_of_the_best_student(seed: int) -> None:
    population = Diaries(steps=11)
    found = evolve(population, FAMILIES, population.scores, range(8), interval=2, seed=seed)
    assert found.families == COLUMNS
    assert found.logs.shape == (6, 4)
    np.testing.assert_allclose(found.starts, np.arange(6) * 2 / 11)
    best = int(np.argmax(found.scores[-1]))
    assert found.ancestors[-1] == best
    assert found.scores[-1] == tuple(population.scores())
    for row, selection in zip(found.logs, population.diaries[best], strict=True):
        weights = {LABELS: selection.labels, **selection.weights}
        for name, family in FAMILIES.items():
            log = row[COLUMNS.index(family)]
            expected = 2**log if log > -2.5 else 0.0
            assert weights.get(name, 0.0) == pytest.approx(expected, rel=0.002)
    assert len(set(found.ancestors)) > 1


def test_learning_from_the_best_is_worth_something() -> None:
    def best(quantile: float, seed: int) -> float:
        population, rule = Diaries(), Evolution(quantile)
        found = evolve(population, FAMILIES, population.scores, range(16), interval=2, seed=seed, evolution=rule)
        return max(found.scores[-1])

    def mean(quantile: float) -> float:
        return float(np.mean([best(quantile, seed) for seed in range(10)]))

    assert mean(0.25) > mean(0.0) + 1.0


def test_without_exchange_each_student_keeps_its_weights() -> None:
    population = Diaries()
    found = evolve(population, FAMILIES, population.scores, range(4), interval=2, evolution=Evolution(quantile=0.0))
    assert all(parents == [0, 1, 2, 3] for parents in population.copied)
    assert (found.logs == found.logs[0]).all()
    assert all(len(set(map(repr, own))) == 1 for own in population.diaries)
    assert population.diaries[0][0] == Selection.of(*[name for name in FAMILIES if name != LABELS])


@given(scores=st.lists(st.one_of(st.floats(-5, 5), st.just(math.nan)), min_size=2, max_size=21), seed=st.integers(0, 9))
def test_the_worst_quarter_takes_over_from_the_best(scores: list[float], seed: int) -> None:
    parents = Evolution().exploit(scores, np.random.default_rng(seed))
    count = min(math.ceil(len(scores) / 4), len(scores) // 2)
    finite = [value if math.isfinite(value) else -math.inf for value in scores]
    heirs = [i for i, parent in enumerate(parents) if parent != i]
    if all(math.isnan(score) for score in scores):
        assert not heirs
    for i in heirs:
        assert sum(value < finite[i] for value in finite) < count  # among the worst
        assert sum(value > finite[parents[i]] for value in finite) < count  # from among the best
        assert math.isfinite(scores[parents[i]])
        assert parents[parents[i]] == parents[i]
    if sum(map(math.isfinite, scores)) == len(scores):
        assert len(heirs) == count


def test_weights_are_multiplied_or_drawn_anew() -> None:
    before = np.full((20_000, 3), 1.0)
    after = Evolution().explore(before, np.random.default_rng(0))
    steps = np.log2([0.8, 1.2])
    multiplied = np.isclose(after[..., None] - 1.0, steps).any(-1)
    assert multiplied.mean() == pytest.approx(0.75, abs=0.01)
    assert np.isclose(after - 1.0, steps[0]).mean() == pytest.approx(0.375, abs=0.01)
    drawn = after[~multiplied]
    np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9]), [-2.4, 0.0, 2.4], atol=0.15)
    edge = Evolution(resample=0.0).explore(np.array([LOGS[0], LOGS[1]]), np.random.default_rng(1))
    assert (edge >= LOGS[0]).all()
    assert (edge <= LOGS[1]).all()


def test_real_students_evolve_and_the_schedule_is_replayed() -> None:
    """The same from the same seed; the replay transfers in every phase what the lineage says, on a fresh seed."""
    env = tiny(knowledge=("logits", "hidden"), steps=9, choice="weights")
    families = env.signals.families

    def evolved(seed: int) -> tuple[Cohort, Lineage]:
        cohort = Cohort(env.distillation, 4)
        reward = env.distillation.task.reward
        score = lambda: [-one.loss for one in cohort.evaluate(reward, "reward")]  # noqa: E731
        return cohort, evolve(cohort, families, score, range(4), interval=2, seed=seed)

    (cohort, lineage), (_, again), (_, other) = evolved(1), evolved(1), evolved(2)
    assert repr(lineage) == repr(again) != repr(other)
    assert cohort.steps_done == 9
    policy = lineage.policy()
    observation, _ = env.reset(seed=100)
    over = False
    while not over:
        action, _ = policy.predict(observation)
        observation, _, over, _, _ = env.step(action)
    assert env.episode is not None
    columns = lineage.families
    assert len(env.episode.phases) == 5
    for row, phase in zip(lineage.logs, env.episode.phases, strict=True):
        weights = {LABELS: phase.selection.labels, **phase.selection.weights}
        for name, family in families.items():
            log = row[columns.index(family)]
            assert weights.get(name, 0.0) == pytest.approx(2**log if log > -2.5 else 0.0, rel=0.002)


def test_a_replay_decides_row_by_row_and_leaves_masked_terms_alone() -> None:
    env = tiny(knowledge=("logits", "hidden"), steps=4, choice="weights")
    population = Diaries(4)
    found = evolve(population, env.signals.families, population.scores, range(4), interval=2)
    observation, _ = env.reset(seed=0)
    later = {key: value.copy() for key, value in observation.items()}
    later["globals"][0] = 0.5  # progress
    later["mask"][1] = 0
    both = found.policy().predict({key: np.stack([observation[key], later[key]]) for key in later})[0]
    assert (both[0] == found.policy().predict(observation)[0]).all()
    assert (both[1] == found.policy().predict(later)[0]).all()
    assert both[1, 1] == 0
    assert not weights_of(both)[:, 3:].any()


def test_what_cannot_evolve_is_said() -> None:
    population = Diaries()
    with pytest.raises(InputError, match="1 students in phases of 2 steps are no population"):
        evolve(population, FAMILIES, population.scores, [1], interval=2)
    with pytest.raises(InputError, match=r"a quantile of 0\.7"):
        Evolution(quantile=0.7)
    with pytest.raises(InputError, match="every student of the population diverged"):
        evolve(population, FAMILIES, lambda: [math.nan] * 4, range(4), interval=2)


def population(students: int = 4, decisions: int = 3, **changes: Any) -> CohortEnv:
    return CohortEnv(
        [tiny(choice=choice_of("pbt"), decisions=decisions, knowledge=("logits", "hidden"), **changes)],
        students,
        paired=True,
    )


def agent(env: CohortEnv, seed: int = 0) -> Pbt:
    learner = make_learner(
        "pbt", LeaveOneOutBaseline(env), types=2, decisions=env.decisions, episodes=env.num_envs, seed=seed
    )
    assert isinstance(learner, Pbt)
    return learner


def test_the_agent_replays_the_lineage_decision_by_decision() -> None:
    env = population(6)
    learner = agent(env)
    learner.learn(18)
    lineage = learner.lineage
    assert lineage is not None
    assert lineage.logs.shape == (3, 3)
    one = tiny(choice="weights", decisions=3, knowledge=("logits", "hidden"))
    observation, _ = one.reset(seed=100)
    for row in lineage.logs:
        action, _ = learner.policy.predict(observation, deterministic=True)
        assert weights_of(action)[:3] == pytest.approx(np.where(row > -2.5, np.exp2(row), 0.0), rel=0.01)
        observation, *_ = one.step(action)


def test_its_scores_are_what_students_earned_with_their_ancestors() -> None:
    """Against the reward split as it was measured, with the exchanges replayed on paper."""
    env = population(5)
    measured: list[list[float]] = []
    env.watch = lambda env, rewards, infos: measured.append(
        [one.reward._phi(one.episode, one.episode.eval_result) for one in env.trajectories]  # type: ignore[attr-defined,union-attr]
    )
    learner = agent(env)
    learner.learn(15)
    assert learner.lineage is not None
    for values, scores in zip(measured, learner.lineage.scores, strict=True):
        np.testing.assert_allclose(  # up to the mean, which all share, and a factor
            np.corrcoef(values, scores), np.ones((2, 2)), atol=1e-4
        )


def test_a_copy_is_its_parent_from_then_on() -> None:
    env = population(3)
    env.seed(0)
    env.reset()
    actions = np.random.default_rng(0).random((3, 8), np.float32)
    env.step(actions)
    env.inherit([0, 0, 2])
    records = [trajectory.record() for trajectory in env.trajectories]
    assert records[0] == records[1] != records[2]
    assert env.cohort.counts.prices[0] == env.cohort.counts.prices[1]
    env.step(np.stack([actions[0], actions[1], actions[2]]))
    records = [trajectory.record() for trajectory in env.trajectories]
    assert records[0].rewards[0] == records[1].rewards[0]
    assert records[0].actions[1] != records[1].actions[1]


def test_the_same_seed_learns_the_same_and_every_student_trains_once() -> None:
    found = []
    for seed in (0, 0, 1):
        env = population()
        learner = agent(env, seed)
        learner.learn(12)
        assert env.turns == 2  # one population, and the next one that a VecEnv begins by itself
        assert env.cohort.steps_done == 0
        found.append(learner.actor.values.numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


Learned = tuple[np.ndarray[Any, Any], str, list[list[float]]]


def learned(folder: Path) -> Learned:
    env = population(decision_interval=2)
    rewards: list[list[float]] = []
    env.watch = lambda env, earned, infos: rewards.append(earned.tolist())
    env.replay(ReplayLog(folder, seconds=0.0))
    learner = agent(env)
    learner.learn(12)
    return learner.actor.values.numpy(), repr(learner.lineage), rewards


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return learned(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("phases", [1, 2, 4, 5])
def test_a_stopped_population_ends_like_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phases: int, whole: Learned
) -> None:
    left, step = 2 * phases, Distiller.step

    def killed(self: Distiller, *given: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Distiller, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        learned(tmp_path / "killed")
    monkeypatch.undo()
    again = learned(tmp_path / "killed")
    np.testing.assert_array_equal(again[0], whole[0])
    assert again[1:] == whole[1:]


def test_a_student_that_diverges_is_nobodys_parent() -> None:
    env = population()
    advance = env.cohort.advance

    def advanced(selections: Sequence[Selection], steps: int) -> Any:
        reports = advance(selections, steps)
        if env.cohort.steps_done == 2:
            return [reports[0].of([math.nan] * len(reports[0].numbers)), *reports[1:]]
        return reports

    env.cohort.advance = advanced  # type: ignore[method-assign]
    learner = agent(env)
    learner.learn(12)
    assert learner.lineage is not None
    assert [math.isnan(score) for score in learner.lineage.scores[0]] == [True, False, False, False]
    assert not np.isnan(learner.lineage.scores[1]).any()  # the quarter that was replaced


def test_the_agent_measures_after_every_decision_and_refuses_what_it_cannot() -> None:
    assert not by_return("pbt")
    with pytest.raises(InputError, match="pbt copies students, which only a cohort in this process can"):
        Pbt(DummyVecEnv([lambda: ToyEnv(choice="weights")] * 2), decisions=10, episodes=2)
    with pytest.raises(InputError, match="pbt compares students in one setting, and there are 2"):
        Pbt(population(), decisions=3, episodes=4, settings=2)
    with pytest.raises(InputError, match="8 students are not the 4 that train side by side"):
        Pbt(population(), decisions=3, episodes=8)
    with pytest.raises(InputError, match="at most 31 decisions, and here are 32: lower --decisions"):
        Pbt(population(), decisions=32, episodes=4)
    assert Pbt(population(), decisions=31, episodes=4).decisions == 31
    with pytest.raises(InputError, match="a population of 1 has nobody to take over from"):
        check_learner("pbt", episodes=1, remote=False)
    with pytest.raises(InputError, match="pbt compares students side by side, which workers keep apart"):
        check_learner("pbt", episodes=4, remote=True)
