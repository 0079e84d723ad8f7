"""A budget of FLOPs: what a run spends is at most its share, whatever is selected, and nothing else changes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ackd import models, tasks
from ackd.agents.policy import Policy
from ackd.agents.rules import rule
from ackd.envs.cohort import CohortEnv
from ackd.envs.distillation import DistillationEnv
from ackd.envs.instance_files import read_instances
from ackd.envs.make import distill, tiny
from ackd.envs.recorder import Recorder
from ackd.envs.recording import CohortRecording
from ackd.errors import InputError
from ackd.mdp.action_spaces import Weights, entries_of
from ackd.mdp.episode import Phase
from ackd.mdp.rewards import GapClosed
from ackd.training.budget import type_prices
from ackd.training.replay_log import ReplayLog
from tests.learned import weights

STEPS = 60
SHAPE: dict[str, Any] = {"steps": STEPS, "decision_interval": 8, "decisions": 4}  # the last phase has 4 steps
BRIEF: dict[str, Any] = {"steps": 30, "decision_interval": 4, "decisions": 4}  # as many phases, of half the steps
POLICIES = ("all", "scheduled", "random", "random-weights")


def play(env: DistillationEnv, policy: Policy, seed: int) -> list[float]:
    observation, _ = env.reset(seed=seed)
    rewards, over = [], False
    while not over:
        action, _ = policy.predict(observation)
        observation, reward, over, _, _ = env.step(action)
        rewards.append(reward)
    return rewards


def phases(env: DistillationEnv) -> Sequence[Phase]:
    assert env.episode is not None
    return env.episode.phases


def spent(env: DistillationEnv) -> float:
    return sum(phase.flops for phase in phases(env)) / sum(phase.flops_all for phase in phases(env))


def step_prices(env: DistillationEnv, name: str, seed: int) -> NDArray[np.float64]:
    """What each step of a run took."""
    each = env.variant(decision_interval=1, reward_every=None, flops_budget=None)
    play(each, rule(name, each.choice.names), seed)
    return np.array([phase.flops for phase in phases(each)])


def ones(env: DistillationEnv, value: int = 1) -> NDArray[np.int8]:
    return np.full(env.signals.k_max, value, np.int8)


@lru_cache
def played(name: str, budget: float | None) -> DistillationEnv:
    """After an episode under a policy."""
    choice = "weights" if name == "random-weights" else "subset"
    env = tiny(**SHAPE, reward_every=None, choice=choice, flops_budget=budget)
    play(env, rule(name, env.choice.names, seed=1), 5)
    return env


@pytest.mark.parametrize("budget", [0.61, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("name", POLICIES)
def test_a_run_spends_its_budget_and_no_more(name: str, budget: float) -> None:
    env = played(name, budget)
    assert sum(phase.steps for phase in phases(env)) == STEPS
    assert spent(env) <= budget
    assert env.distillation.counts.price / env.distillation.counts.price_of_all == pytest.approx(spent(env))
    assert spent(env) >= min(spent(played(name, None)), budget) - 0.02


def test_labels_alone_fit_into_the_budget_at_every_moment() -> None:
    labels, everything = (step_prices(tiny(**SHAPE), name, 5) for name in ("labels", "all"))
    for name in POLICIES:
        paid, done = 0.0, 0
        for phase in phases(played(name, 0.8)):
            paid, done = paid + phase.flops, done + phase.steps
            assert paid + labels[done:].sum() <= 0.8 * everything.sum()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> DistillationEnv:
    """Of `ACKD/Distill-v0`, with two batches a step."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    tokenizer = tasks.embedded_tokenizer("polarity")
    models.save_model(
        folder, models.from_config(models.small_config(len(tokenizer), 2, layers=2, width=16, heads=2))(), tokenizer
    )
    return distill(
        task="polarity", teacher=str(folder), student_layers=1, max_examples=300, reward_examples=40, steps=20,
        batch_size=4, accumulate=2, decision_interval=7, types=("logits", "hidden"), flops_budget=0.8,
    )  # fmt: skip


@pytest.mark.parametrize(("budget", "seed"), [(0.7, 0), (0.8, 1), (0.9, 2)])
def test_the_last_step_that_fits_is_the_last_with_knowledge(real: DistillationEnv, budget: float, seed: int) -> None:
    for made in (tiny(**BRIEF, reward_every=None), real.variant(reward_every=None)):
        env = made.variant(flops_budget=budget)
        labels, everything = (step_prices(env, name, seed) for name in ("labels", "all"))
        allowed = budget * everything.sum()
        fits = [everything[:n].sum() + labels[n:].sum() <= allowed for n in range(len(labels) + 1)]
        play(env, rule("all", env.choice.names), seed)
        chosen = [bool(phase.selection.chosen) for phase in phases(env) for _ in range(phase.steps)]
        assert chosen.index(False) == sum(fits) - 1
        # batches differ in length: one or two shorter ones may still fit in what a longer one left
        assert sum(chosen) - chosen.index(False) <= 2
        assert spent(env) <= budget
        assert budget - spent(env) <= (everything - labels).max() / everything.sum()


def test_what_is_saved_can_be_spent_later() -> None:
    env = tiny(**SHAPE, flops_budget=0.85)
    env.reset(seed=1)
    for value in (0, 0, 1, 1):
        env.step(ones(env, value))
    free = [(phase.steps, bool(phase.selection.chosen)) for phase in phases(env)]
    assert free == [(8, False)] * 4 + [(8, True)] * 3 + [(4, True)]
    assert spent(env) < 0.85


@pytest.mark.parametrize(("given", "left"), [(0.25, 0.25), (0.0, 1.0), (2.0, 2.0)])
def test_the_labels_go_on_with_the_weight_that_was_selected_or_1(given: float, left: float) -> None:
    env = tiny(**SHAPE, choice="weights", flops_budget=0.7)
    assert isinstance(env.choice, Weights)
    action = np.zeros(8, np.float32)
    action[: len(env.choice.names)] = entries_of([given, *[1.0] * len(env.knowledge)])
    env.reset(seed=0)
    for _ in range(4):
        env.step(action)
    before = [phase.selection for phase in phases(env) if phase.selection.chosen]
    after = [phase.selection for phase in phases(env) if not phase.selection.chosen]
    assert {one.labels for one in before} == {given}
    assert {one.labels for one in after} == {left}


@pytest.mark.parametrize("name", POLICIES[:3])
def test_the_whole_as_a_budget_changes_nothing(name: str) -> None:
    found = []
    for budget in (None, 1.0):
        env = tiny(**BRIEF, flops_budget=budget)
        rewards = play(env, rule(name, env.choice.names), 4)
        found.append((rewards, [(p.selection, p.steps, p.flops) for p in phases(env)], weights(env.distillation)))
    assert found[0][:2] == found[1][:2]
    assert torch.equal(found[0][2], found[1][2])


def test_rewards_of_a_cut_run_telescope() -> None:
    env = tiny(**SHAPE, reward="loss-gap", flops_budget=0.7)
    rewards = play(env, rule("all", env.choice.names), 0)
    assert env.episode is not None
    assert len(phases(env)) > -(-STEPS // 8)  # one was cut in two
    assert isinstance(env.reward, GapClosed)
    assert env.episode.start is not None
    assert env.episode.eval_result is not None
    gap = env.reward.gap(env.episode) or 1.0
    assert math.fsum(rewards) == pytest.approx((env.episode.start.loss - env.episode.eval_result.loss) / gap, abs=1e-9)
    assert len(rewards) == 4
    assert sum(phase.eval_result is not None for phase in phases(env)) == 4


def test_a_score_at_the_end_is_earned_once_where_the_last_phase_is_cut() -> None:
    env = tiny(**SHAPE, reward="final", flops_budget=0.97)
    rewards = play(env, rule("all", env.choice.names), 0)
    assert [phase.steps for phase in phases(env)][-2:] not in ([8, 8], [8, 4])
    assert env.episode is not None
    assert env.episode.eval_result is not None
    assert rewards == [0.0, 0.0, 0.0, env.episode.eval_result.score]


def test_records_forks_and_variants_keep_to_the_budget() -> None:
    env = tiny(**BRIEF, flops_budget=0.8)
    assert env.variant(choice="weights").timetable.flops_budget == 0.8
    env.reset(seed=5)
    env.step(ones(env))
    state, twin, other = env.state_dict(), env.fork(), tiny(**BRIEF, flops_budget=0.8)
    other.load_state_dict(state)
    for one in (env, twin, other):
        for _ in range(3):
            one.step(ones(one))
    for one in (twin, other):
        assert [(p.selection, p.steps, p.flops) for p in phases(one)] == [
            (p.selection, p.steps, p.flops) for p in phases(env)
        ]
        assert torch.equal(weights(one.distillation), weights(env.distillation))
    assert env.validate(env.record())


class Kept(CohortEnv):
    """A cohort that keeps the trajectories of its last episode."""

    def reset(self) -> Any:
        self.kept = [one.episode for one in self.trajectories]
        return super().reset()


def play_cohort(env: DistillationEnv, values: Sequence[Sequence[int]], seeds: Sequence[int], **more: Any) -> Kept:
    cohort = Kept([env], len(seeds), **more)
    cohort._seeds = list(seeds)
    cohort.reset()
    for decision in values:
        cohort.step(np.stack([ones(env, value) for value in decision]))
    return cohort


def test_a_cohort_of_one_is_the_single_student() -> None:
    env = tiny(**BRIEF, flops_budget=0.7)
    (episode,) = play_cohort(env, [[1]] * 4, [3]).kept
    assert episode is not None
    play(env, rule("all", env.choice.names), 3)
    assert list(episode.phases) == list(phases(env))


def test_each_student_of_a_cohort_keeps_to_its_budget_as_it_would_alone() -> None:
    env = tiny(**BRIEF, flops_budget=0.8)
    plans = {"all": (1, 1, 1, 1), "late": (0, 1, 1, 1), "labels": (0, 0, 0, 0), "turns": (1, 0, 1, 1)}
    kept = play_cohort(env, list(zip(*plans.values(), strict=True)), [3] * len(plans)).kept
    for episode, plan in zip(kept, plans.values(), strict=True):
        assert episode is not None
        env.reset(seed=3)
        for value in plan:
            env.step(ones(env, value))
        together, alone = (
            ([(p.selection, p.steps, p.learning_rate) for p in those], [(p.flops, p.flops_all) for p in those])
            for those in (episode.phases, phases(env))
        )
        assert together[0] == alone[0]
        np.testing.assert_allclose(together[1], alone[1])
        assert spent(env) <= 0.8


def test_cuts_of_others_leave_a_student_of_a_cohort_alone() -> None:
    """What the second one measures is the same whether the first, who selects everything, is cut or not."""
    both = []
    for budget in (0.7, None):
        env = tiny(**BRIEF, cost_weight=0.0, flops_budget=budget)
        _, episode = play_cohort(env, [[1, 0]] * 4, [3, 4]).kept
        assert episode is not None
        both.append([(p.steps, p.report.numbers) for p in episode.phases])
    assert [steps for steps, _ in both[0]] == [steps for steps, _ in both[1]]
    for (_, cut), (_, free) in zip(*both, strict=True):
        assert cut == pytest.approx(free, rel=1e-5)


def test_what_was_done_is_written_down(tmp_path: Path) -> None:
    env = tiny(**BRIEF, flops_budget=0.75)
    recorder = Recorder(tmp_path, env.knowledge)
    play_cohort(env, [[1, 0]] * 4, [0, 0], watch=CohortRecording(recorder))
    recorder.close()
    with (tmp_path / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    mine, other = ([row for row in rows if row["episode"] == name] for name in "01")
    assert len(mine) == len(other) + 1
    names = [row["selection"] for row in mine]
    assert names == ["logits+hidden+attention"] * names.index("labels") + ["labels"] * (9 - names.index("labels"))
    assert {row["selection"] for row in other} == {"labels"}
    assert mine[-1]["steps_done"] == other[-1]["steps_done"] == str(BRIEF["steps"])


@pytest.mark.parametrize("students", [None, 3])
def test_it_resumes(tmp_path: Path, students: int | None) -> None:
    shape: dict[str, Any] = {**SHAPE, "steps": 20, "decision_interval": 3, "flops_budget": 0.8}

    def single(replay_log: ReplayLog | None, decisions: int) -> list[Any]:
        env = tiny(**shape)
        env.replay(replay_log)
        env.reset(seed=3)
        said: list[Any] = []
        for value in (1, 0, 1, 1)[:decisions]:
            observation, reward, *_ = env.step(ones(env, value))
            said.append((reward, observation["globals"].tolist(), [(p.selection, p.steps) for p in phases(env)]))
        return said

    def several(replay_log: ReplayLog | None, decisions: int) -> list[Any]:
        env = CohortEnv([tiny(**shape)], 3)
        env.replay(replay_log)
        env.seed(3)
        env.reset()
        rng, said = np.random.default_rng(0), []
        for _ in range(decisions):
            after, rewards, _, _ = env.step(rng.integers(0, 2, (3, 8)).astype(np.int8) | (np.arange(3) == 0)[:, None])
            said.append((rewards.tolist(), np.asarray(after["globals"]).tolist()))  # type: ignore[call-overload]
        return said

    go: Callable[[ReplayLog | None, int], list[Any]] = several if students else single
    whole = go(None, 4)
    for decisions in (1, 2, 3, 4):
        assert go(ReplayLog(tmp_path, seconds=0), decisions) == whole[:decisions]


def test_an_instance_has_a_budget_of_its_own(tmp_path: Path, real: DistillationEnv) -> None:
    text = '{"format": 1, "instances": [{"name": "a", "split": "train", "seeds": [0, 1], "task": "polarity", '
    text += f'"teacher": "{tmp_path}", "flops_budget": %s}}]}}'
    path = tmp_path / "set.json"
    path.write_text(text % "0.8")
    assert read_instances(path)[0].setting["flops_budget"] == 0.8
    for wrong in ('"much"', "NaN"):
        path.write_text(text % wrong)
        with pytest.raises(InputError, match="flops_budget must be a number or null"):
            read_instances(path)


@pytest.mark.parametrize("budget", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_a_share_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(InputError, match=r"the FLOPs budget is .*: give a share .* above 0 and at most 1"):
        tiny(flops_budget=budget)


def test_less_than_labels_take_is_refused() -> None:
    least = type_prices(tiny().distillation)["labels"]
    with pytest.raises(InputError, match=rf"is 0\.5, and labels alone take {least:.2f}.*give at least 0\.61"):
        tiny(flops_budget=0.5)
    env = tiny(**SHAPE, flops_budget=0.61)
    play(env, rule("labels", env.choice.names), 0)
    assert {phase.selection.chosen for phase in phases(env)} == {()}
