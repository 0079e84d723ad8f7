"""What is refused before anything is trained, in one sentence, and what of an action is free, in every environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.env_util import make_vec_env

from ackd.distributed.workers import start
from ackd.envs.checks import action_masks, check_action
from ackd.envs.cohort import CohortEnv
from ackd.envs.env_server import Registered
from ackd.envs.instance_files import Instance
from ackd.envs.instances import InstanceEnv
from ackd.envs.make import distill, tiny
from ackd.envs.remote import RemoteVecEnv
from ackd.envs.toy import ToyEnv
from ackd.errors import InputError
from ackd.mdp.action_spaces import Stages
from ackd.types import Selection
from tests.learned import weights

ONE = Instance("one", "train", {"types": ("logits", "hidden")}, (0, 3))
TOYS = Registered("ACKD/Toy-v0")
MALFORMED: list[tuple[Any, str]] = [
    (0, r"the shape \(\)"),
    ([0, 1, 0], r"the shape \(3,\)"),
    ([[0] * 8], r"the shape \(1, 8\)"),
    ([0] * 7 + [7], "entry 7 of the action is 7: give whole numbers from 0 to 1"),
    ([-1] + [0] * 7, "entry 0 of the action is -1"),
    ([0.5] * 8, "entry 0 of the action is 0.5"),
    ([0, np.nan] + [0] * 6, "entry 1 of the action is nan"),
    ([np.inf] + [0] * 7, "entry 0 of the action is inf"),
    ("all", "'all' is no array of numbers"),
    (None, "None is no array of numbers"),
    ([[0], [0, 1]], "no array of numbers"),
]


def instances(**arguments: Any) -> InstanceEnv:
    return InstanceEnv([ONE], tiny, **arguments)


@pytest.mark.parametrize("make", [ToyEnv, tiny, instances, lambda: gymnasium.make("ACKD/Tiny-v0")])
def test_malformed_actions_are_refused_and_leave_nothing_behind(make: Callable[[], Any]) -> None:
    env = make()
    env.reset(seed=0)
    for action, words in MALFORMED:
        with pytest.raises(InputError, match=words) as refusal:
            env.step(action)
        assert "\n" not in str(refusal.value)
    assert env.unwrapped.record().actions == ()
    env.step([1] + [0] * 7)
    assert env.unwrapped.record().actions == ((1, 0, 0, 0, 0, 0, 0, 0),)


@pytest.mark.parametrize("make", [lambda: CohortEnv([tiny()], 2), lambda: RemoteVecEnv(start("dummy", TOYS, 2))])
def test_one_malformed_action_among_several_moves_none(make: Callable[[], Any]) -> None:
    env = make()
    env.reset()
    good = np.zeros((2, 8), np.int8)
    for action, words in MALFORMED:
        with pytest.raises(InputError, match=f"environment 1: .*{words}"):
            env.step([good[0], action])
    for actions in (0, good[0], good[:1], np.zeros((3, 8)), None):
        with pytest.raises(InputError, match="2 environments take one action each, got"):
            env.step(actions)
    assert [len(record.actions) for record in env.env_method("record")] == [0, 0]
    env.step(good)
    assert [len(record.actions) for record in env.env_method("record")] == [1, 1]


def test_a_weight_may_miss_its_ends_by_rounding_alone() -> None:
    env = tiny(choice="weights")
    env.reset(seed=0)
    for wrong in (1.5, -0.1, 1.0001, np.nan):
        with pytest.raises(InputError, match="give numbers from 0 to 1"):
            env.step(np.full(8, wrong))
    taken = check_action(env.action_space, np.full(8, 1 + 1e-7))
    assert env.action_space.contains(taken)
    levels = tiny(choice="levels").action_space
    assert check_action(levels, [3.0] * 8).dtype == levels.dtype
    with pytest.raises(InputError, match="entry 2 of the action is 4: give whole numbers from 0 to 3"):
        check_action(levels, [0, 3, 4, 0, 0, 0, 0, 0])
    with pytest.raises(InputError, match="the action is 2: give whole numbers from 0 to 1"):
        check_action(spaces.Discrete(2), 2)
    with pytest.raises(InputError, match="is not in Text"):
        check_action(spaces.Text(3), "four")


SPACES = [
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.MultiDiscrete([2, 5], start=[0, -3]),
    spaces.Discrete(4, start=2),
    spaces.Box(-1.0, 2.0, (3,)),
    spaces.Box(0, 255, (2,), np.uint8),
]


@given(seed=st.integers(0, 2**31 - 1), space=st.sampled_from(SPACES))
def test_what_a_space_samples_is_taken_as_it_is(seed: int, space: spaces.Space[Any]) -> None:
    space.seed(seed)
    action = space.sample()
    taken = check_action(space, action)
    assert taken.dtype == np.asarray(action).dtype
    np.testing.assert_allclose(taken, action, atol=1e-6)


@pytest.mark.parametrize("make", [ToyEnv, tiny, instances, lambda **mode: distill(task="none", **mode)])
def test_no_render_mode_is_none(make: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="render_mode cannot be 'rgb_array': leave it away"):
        make(render_mode="rgb_array")


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")  # Gymnasium's own word, before ours
@pytest.mark.parametrize("name", ["ACKD/Toy-v0", "ACKD/Tiny-v0"])
def test_gymnasium_may_say_that_there_is_none(name: str) -> None:
    assert gymnasium.make(name, render_mode=None).render_mode is None
    assert instances(render_mode=None).render_mode is None
    with pytest.raises(InputError, match="render_mode cannot be 'human'"):
        gymnasium.make(name, render_mode="human").reset()


def test_masks_name_the_free_values_of_each_entry() -> None:
    """Written out: off and on of four bits and four without a meaning, and levels likewise."""
    assert tiny().action_masks().tolist() == [True, True] * 4 + [True, False] * 4
    assert tiny(choice="type-subset").action_masks().tolist() == [True, True] * 3 + [True, False] * 5
    assert ToyEnv().action_masks().tolist() == [True, True] * 3 + [True, False] * 5
    assert instances().action_masks().tolist() == [True, True] * 3 + [True, False] * 5
    levels = tiny(choice="levels", levels=(0, 1, 2), k_max=5)
    assert levels.action_masks().tolist() == [True] * 12 + [True, False, False]
    assert action_masks(Stages([Selection(), Selection.of("a")])).tolist() == [True, True]
    with pytest.raises(InputError, match="take the choice subset or levels"):
        tiny(choice="weights").action_masks()
    cohort = CohortEnv([tiny()], 2)
    assert is_masking_supported(cohort)
    np.testing.assert_array_equal(get_action_masks(cohort), [tiny().action_masks()] * 2)


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")  # stable-baselines3 asks for rgb_array first
def test_an_agent_of_sb3_contrib_never_takes_a_masked_bit() -> None:
    assert make_vec_env("ACKD/Tiny-v0", 1).render_mode is None
    env = make_vec_env("ACKD/Toy-v0", 2)
    agent = MaskablePPO("MultiInputPolicy", env, n_steps=20, batch_size=40, seed=0)
    agent.learn(80)
    taken = agent.rollout_buffer.actions.reshape(-1, 8)
    assert taken[:, :3].any()
    assert not taken[:, 3:].any()


def test_a_refused_action_costs_no_step_of_the_student() -> None:
    env, other = tiny(), tiny()
    for one in (env, other):
        one.reset(seed=0)
    with pytest.raises(InputError):
        env.step(np.full(8, 7))
    for one in (env, other):
        one.step(np.ones(8, np.int8))
    assert (weights(env.distillation) == weights(other.distillation)).all()
