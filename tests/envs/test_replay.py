"""Records that are true are told from all others, and forks and pickles are what they were made of."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence

from ackd.distributed.workers import start
from ackd.envs.cohort import CohortEnv
from ackd.envs.env_server import Registered
from ackd.envs.instance_files import Instance
from ackd.envs.instances import InstanceEnv
from ackd.envs.make import tiny
from ackd.envs.remote import RemoteVecEnv
from ackd.envs.replay import Record
from ackd.envs.toy import ToyEnv
from ackd.mdp.action_spaces import Stages
from ackd.types import Selection

SHORT: dict[str, Any] = {"types": ("logits", "hidden"), "steps": 6}
ONE = Instance("one", "train", SHORT, (0, 3))
OTHER = Instance("other", "train", {**SHORT, "lr": 1e-2}, (10, 2))


def instances() -> InstanceEnv:
    return InstanceEnv([ONE, OTHER], tiny)


MAKES: Sequence[Callable[[], Any]] = [
    lambda: ToyEnv(decisions=3, noise=0.05),
    lambda: tiny(**SHORT),
    lambda: gymnasium.make("ACKD/Tiny-v0", **SHORT),
    lambda: gymnasium.make("ACKD/Toy-v0", decisions=3, noise=0.05),
    instances,
]


def play(env: Any, decisions: int) -> Record:
    rng = np.random.default_rng(0)
    for _ in range(decisions):
        env.step(rng.integers(0, 2, 8).astype(np.int8))
    record: Record = env.unwrapped.record()
    return record


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("seed", [5, None])
def test_what_was_played_is_true_and_what_was_not_is_not(make: Callable[[], Any], seed: int | None) -> None:
    env = make()
    env.reset(seed=1)
    play(env, 1)
    env.reset(seed=seed)
    for decisions in (1, 2):  # three in all
        record = play(env, decisions)
        assert len(record.actions) == len(record.rewards)
        assert env.unwrapped.validate(record)
    rewards, actions = record.rewards, record.actions
    forged: Sequence[dict[str, Any]] = [
        {"actions": (), "rewards": ()},
        {"actions": (), "rewards": (5.0,)},
        {"actions": actions[:1]},
        {"rewards": rewards[:2]},
        {"rewards": rewards[:1]},
        {"rewards": rewards[0]},
        {"rewards": [rewards] * 3},
        {"rewards": [reward + 0.1 for reward in rewards]},
        {"rewards": (*rewards[:2], float("nan"))},
        {"rewards": ("a", "b", "c")},
        {"rewards": None},
        {"actions": (*actions, actions[0]), "rewards": (*rewards, 0.0)},  # ends early
        {"actions": (*actions[:2], (0, 1))},
        {"actions": (*actions[:2], (7,) * 8)},
        {"actions": (*actions[:2], (float("nan"),) * 8)},
        {"actions": (*actions[:2], "subset!!")},
        {"actions": (0, 1, 0)},
        {"actions": None},
        {"seed": -1},
        {"seed": None},
        {"seed": "5"},
        {"earlier": (-1,)},
        {"earlier": ("a",)},
        {"earlier": None},
    ]
    for lie in forged:
        assert not env.unwrapped.validate(replace(record, **lie)), lie
    before = env.unwrapped.record()
    assert env.unwrapped.validate(before)
    assert env.unwrapped.record() == before


def test_a_record_names_its_instance() -> None:
    env = instances()
    env.reset()
    env.reset()
    record = play(env, 3)
    assert (record.instance, record.seed) == ("other", 10)
    assert instances().validate(record)
    assert not env.validate(replace(record, instance="one"))
    assert not env.validate(replace(record, instance="elsewhere"))


def test_stages_are_replayed_too() -> None:
    env = tiny(**SHORT).variant(choice=Stages([Selection(), Selection.of("logits")]))
    env.reset(seed=0)
    for action in (1, np.array(0), np.int64(1)):
        env.step(cast(Any, action))
    assert env.record().actions == ((1,), (0,), (1,))
    assert env.validate(env.record())
    assert not env.validate(replace(env.record(), actions=((1,), (2,), (1,))))


def test_the_students_of_a_cohort_are_replayed_together() -> None:
    env = CohortEnv([tiny(**SHORT)], 2)
    env.seed(3)
    env.reset()
    for actions in (np.eye(2, 8, dtype=np.int8), 1 - np.eye(2, 8, dtype=np.int8)):  # each other ones than before
        env.step(actions)
    one, other = env.record()
    assert env.validate([one, other])
    short = replace(other, actions=other.actions[:1], rewards=other.rewards[:1])
    long = [replace(each, actions=[*each.actions] * 2, rewards=[*each.rewards] * 2) for each in (one, other)]
    for lie in ([other, one], [one], [], [one, short], [one, replace(other, seed=-1)], long):
        assert not env.validate(lie)
    assert env.record() == [one, other]


def test_a_student_of_a_cohort_that_diverged_has_a_shorter_record() -> None:
    env = CohortEnv([tiny(**SHORT, lr=1e30)], 2)
    env.seed(0)
    env.reset()
    for _ in range(2):
        env.step(np.ones((2, 8), np.int8))
    records = env.record()
    assert any(len(record.actions) < 2 for record in records) or all(one.over for one in env.trajectories)
    assert env.validate(records)


def test_a_fork_of_a_cohort_goes_on_alike_and_apart() -> None:
    env = CohortEnv([tiny(**SHORT)], 2, blocks=[(4, 9)])
    env.reset()
    actions = np.eye(2, 8, dtype=np.int8)
    env.step(actions)
    twin, before = env.fork(), env.record()
    theirs = [twin.step(actions) for _ in range(3)]  # and into the next episode
    assert env.record() == before
    for ours, its in zip([env.step(actions) for _ in range(3)], theirs, strict=True):
        np.testing.assert_array_equal(ours[1], its[1])
        for name, value in ours[0].items():  # type: ignore[union-attr]
            np.testing.assert_array_equal(value, its[0][name])  # type: ignore[index]


@pytest.mark.parametrize("make", MAKES)
def test_a_fork_before_the_first_reset_starts_no_episode(make: Callable[[], Any]) -> None:
    env = make().unwrapped
    twin = env.fork()
    for one in (twin, env):
        with pytest.raises(ResetNeeded):
            one.step(np.zeros(8, np.int8))
    assert twin.record().actions == ()
    assert data_equivalence(env.reset(seed=2), twin.reset(seed=2), exact=True)


@pytest.mark.parametrize("name", ["ACKD/Tiny-v0", "ACKD/Toy-v0"])
def test_a_fork_keeps_the_spec(name: str) -> None:
    env = gymnasium.make(name, cost_weight=0.5).unwrapped
    assert env.spec is not None
    twin = env.fork()  # type: ignore[attr-defined]
    assert twin.spec == env.spec
    assert twin.fork().spec.kwargs["cost_weight"] == 0.5


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("travel", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
def test_what_is_pickled_goes_on_where_it_was(make: Callable[[], Any], travel: Callable[[Any], Any]) -> None:
    env = make()
    env.reset(seed=3)
    play(env, 1)
    other = travel(env)
    assert (other.spec and other.spec.id) == (env.spec and env.spec.id)
    action = np.array([1, 0, 1, 0, 0, 0, 0, 0], np.int8)
    assert data_equivalence(env.step(action), other.step(action), exact=True)
    assert other.unwrapped.record() == env.unwrapped.record()
    assert data_equivalence(env.reset(), other.reset(), exact=True)


def test_workers_record_and_validate() -> None:
    env = RemoteVecEnv(start("dummy", Registered("ACKD/Toy-v0", count=2), 2))
    env.reset()
    env.step(np.eye(4, 8, dtype=np.int8))
    records = env.env_method("record")
    assert env.env_method("validate", records[2]) == [True] * 4  # whoever replays it
    assert env.env_method("validate", replace(records[2], rewards=(5.0,))) == [False] * 4
