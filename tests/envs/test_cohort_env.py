"""The cohort as a VecEnv: what stable-baselines3 expects of one, and the same numbers as single environments."""

from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from ackd.agents.actor_critic import make_agent
from ackd.agents.rules import rule
from ackd.envs.cohort import CohortEnv
from ackd.envs.distillation import ERROR_RETURN, DistillationEnv
from ackd.envs.make import tiny
from ackd.envs.recorder import Recorder
from ackd.envs.recording import CohortRecording
from ackd.errors import InputError
from ackd.mdp.observations import Observation
from ackd.training.replay_log import ReplayLog


def make(students: int = 3, **setting: Any) -> CohortEnv:
    return CohortEnv([tiny()], students, **setting)


def begin(env: CohortEnv) -> Observation:
    return env.reset()


def actions(n: int, decisions: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 2, (n, 8)).astype(np.int8) for _ in range(decisions)]


def test_it_is_a_vec_env() -> None:
    env = make()
    assert env.num_envs == 3
    observation = begin(env)
    for name, space in env.observation_space.spaces.items():  # type: ignore[attr-defined]
        assert observation[name].shape == (3, *space.shape)
        for row in observation[name]:
            assert space.contains(row)
    for i, action in enumerate(actions(3)):
        after, rewards, dones, infos = env.step(action)
        observation = cast(Observation, after)
        assert rewards.dtype == np.float32
        assert rewards.shape == dones.shape == (3,)
        assert dones.dtype == bool
        assert dones.all() == dones.any() == (i == 5)
        assert len(infos) == 3
    for info in infos:
        assert info["TimeLimit.truncated"] is False
        assert env.observation_space.contains(info["terminal_observation"])
        assert info["terminal_observation"]["globals"][0] == 1.0
    assert (observation["globals"][:, 0] == 0).all()  # it has begun anew
    assert env.get_attr("render_mode") == [None] * 3
    assert env.env_is_wrapped(VecMonitor) == [False] * 3
    assert [record.seed for record in env.env_method("record")] == env.get_attr("seed")


def test_it_answers_what_is_asked_of_single_environments() -> None:
    env = CohortEnv([cast(DistillationEnv, gymnasium.make("ACKD/Tiny-v0").unwrapped)], 3)
    assert [spec.id for spec in env.get_attr("spec")] == ["ACKD/Tiny-v0"] * 3
    assert env.env_method("set_wrapper_attr", "mark", 3, indices=[0, 2]) == [True, True]
    assert env.env_method("has_wrapper_attr", "mark") == [True, False, True]
    assert env.env_method("get_wrapper_attr", "mark", indices=2) == [3]
    assert env.env_method("set_wrapper_attr", "nothing", 3, force=False) == [False] * 3
    assert env.env_method("get_wrapper_attr", "decisions", indices=0) == [0]  # so far
    assert env.get_images() == [None] * 3
    for ask in (env.get_attr, env.env_method, partial(env.env_method, "get_wrapper_attr")):
        with pytest.raises(AttributeError, match="no_such_thing"):
            ask("no_such_thing")
    assert env.has_attr("action_masks")
    assert not env.has_attr("no_such_thing")


def test_options_are_refused_as_single_environments_do() -> None:
    env = make(2)
    env.set_options([{"speed": 3}, {"instance": "one"}])
    with pytest.raises(InputError, match="reset takes no options, got speed, instance"):
        env.reset()
    env.reset()  # they were for that reset alone


def test_each_student_earns_what_it_would_alone() -> None:
    """The same batches, and no dropout: the reward of each is that of an environment of its own."""
    torch.manual_seed(0)
    env = tiny(cost_weight=0.1)
    for module in env.distillation.teachers[0].model.modules():  # type: ignore[attr-defined]
        assert not isinstance(module, torch.nn.Dropout) or not module.training
    cohort = CohortEnv([env], 1)
    cohort.seed(5)
    first = begin(cohort)
    alone, _ = env.reset(seed=5)
    for name, value in alone.items():
        np.testing.assert_array_equal(first[name][0], value)
    for action in actions(1):
        after, rewards, _, infos = cohort.step(action)
        observation = cast(Observation, after)
        expected, reward, over, _, _ = env.step(action[0])
        assert rewards[0] == np.float32(reward)
        last = infos[0]["terminal_observation"] if over else {name: value[0] for name, value in observation.items()}
        for name, value in expected.items():
            np.testing.assert_array_equal(last[name], value)


def test_equal_seeds_compare_policies_on_the_same_student() -> None:
    env = make(2)
    env._seeds = [7, 7]
    first = begin(env)
    np.testing.assert_array_equal(first["globals"][0], first["globals"][1])
    bits = np.zeros((2, 8), np.int8)
    bits[0, :4] = 1
    total = np.zeros(2)
    for _ in range(6):
        _, rewards, _, infos = env.step(bits)
        total += rewards
    assert total[0] != total[1]
    assert [info["action/effective"] for info in infos] == ["logits+hidden+attention", "labels"]
    assert infos[0]["episode"]["r"] == pytest.approx(total[0], rel=1e-5)


def test_a_student_that_diverges_is_out_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(2)
    env.seed(1)
    env.reset()
    cohort = env.cohort
    with torch.no_grad():
        for parameter in cohort.model(0).parameters():
            parameter.fill_(math.nan)
    returns, earned = np.zeros(2), []
    for action in actions(2):
        _, rewards, dones, infos = env.step(action)
        returns += rewards
        assert infos[0]["error/type"] == "divergence"
        assert infos[1]["error/type"] == ""
        assert infos[0]["loss/labels"] == infos[0]["grad_norm"] == 0.0
        earned.append([step.earned.total for step in env.trajectories[0].latest])
    assert dones.all()
    assert [0.0] in earned  # of a decision after its end
    assert returns[0] == ERROR_RETURN
    assert math.isfinite(returns[1])
    assert infos[0]["episode"]["r"] == ERROR_RETURN


def test_agents_of_stable_baselines_train_and_evaluate_on_it() -> None:
    env = make(2)
    agent = make_agent("a2c", env, seed=0, n_steps=6, episodes=4)
    agent.learn(24)
    assert agent.num_timesteps == 24
    returns, lengths = evaluate_policy(rule("all", env.knowledge), env, 2, return_episode_rewards=True, warn=False)  # type: ignore[arg-type]
    assert lengths == [6, 6]
    assert np.isfinite(returns).all()


def test_what_is_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ("logits", "hidden", "attention"))
    steps: list[int] = []
    watch = CohortRecording(recorder)
    env = make(2, watch=watch)
    env.on_phase = lambda phases, taken: steps.append(taken)
    env.reset()
    given = np.zeros(2)
    for action in actions(2):
        given += env.step(action)[1]
    recorder.close()
    with (tmp_path / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["episode"], row["decision"]) for row in rows] == [(str(i), str(d)) for d in range(6) for i in (0, 1)]
    for i in (0, 1):
        assert sum(float(row["reward"]) for row in rows if row["episode"] == str(i)) == pytest.approx(
            given[i], rel=1e-5
        )
    assert sum(steps) == 2 * 12
    assert watch.costs.steps == 12
    assert watch.costs.seconds["student"] > 0


def test_it_resumes(tmp_path: Path) -> None:
    def play(replay_log: ReplayLog | None, decisions: int) -> list[Any]:
        env = make(2)
        env.replay(replay_log)
        env.seed(3)
        said: list[Any] = [{name: value.tolist() for name, value in begin(env).items()}]
        for action in actions(2, decisions):
            after, rewards, _, _ = env.step(action)
            said.append((rewards.tolist(), {name: value.tolist() for name, value in cast(Observation, after).items()}))
        return said

    expected = play(None, 9)
    assert play(ReplayLog(tmp_path, seconds=0), 4) == expected[:5]
    assert play(ReplayLog(tmp_path, seconds=0), 8) == expected[:9]
    assert play(ReplayLog(tmp_path, seconds=0), 9) == expected


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least one environment"):
        CohortEnv([], 2)
    with pytest.raises(InputError, match="the same action space"):
        CohortEnv([tiny(), tiny(k_max=5)], 2)
    with pytest.raises(InputError, match="at least 1 student"):
        make(0)


def test_settings_take_turns(tmp_path: Path) -> None:
    envs = [tiny(), tiny(knowledge=("logits", "hidden"), student_width=8, steps=8)]

    def play(replay_log: ReplayLog | None, episodes: int) -> list[Any]:
        env = CohortEnv(envs, 2, blocks=[(10, 3), (20, 100)])
        env.replay(replay_log)
        said: list[Any] = [{name: value.tolist() for name, value in begin(env).items()}]
        for _ in range(episodes):
            said.append((env.knowledge, env.cohort.counts.seeds))
            for action in actions(2, env.decisions):
                _, rewards, dones, _ = env.step(action)
                said.append((rewards.tolist(), dones.tolist()))
        return said

    expected = play(None, 4)
    visited = [step for step in expected[1:] if isinstance(step[0][0], str)]
    assert [seeds for _, seeds in visited] == [(10, 11), (20, 21), (12, 10), (22, 23)]
    assert [len(knowledge) for knowledge, _ in visited] == [3, 2, 3, 2]
    assert play(ReplayLog(tmp_path, seconds=0), 2) == expected[: len(play(None, 2))]
    assert play(ReplayLog(tmp_path, seconds=0), 4) == expected
