"""Rewards relative to the other students'."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackd.agents.leave_one_out import LeaveOneOutBaseline, relative
from ackd.envs.cohort import CohortEnv
from ackd.envs.make import tiny


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_each_less_the_mean_of_the_others(rewards: list[float]) -> None:
    found = relative(np.array(rewards))
    for i, value in enumerate(found):
        others = [reward for j, reward in enumerate(rewards) if j != i]
        assert value == pytest.approx(rewards[i] - sum(others) / len(others), abs=1e-12)
    assert found.sum() == pytest.approx(0.0, abs=1e-9)


def test_one_alone_keeps_its_reward() -> None:
    assert relative(np.array([0.3])).tolist() == [0.3]


def test_only_rewards_change() -> None:
    seen = []
    for wrap in (False, True):
        env = CohortEnv([tiny()], 2)
        env.seed(3)
        wrapped = LeaveOneOutBaseline(env) if wrap else env
        wrapped.reset()
        rng = np.random.default_rng(0)
        steps = [wrapped.step(rng.integers(0, 2, (2, 8)).astype(np.int8)) for _ in range(6)]
        seen.append(steps)
    for (_, plain, over, infos), (_, ours, ends, others) in zip(*seen, strict=True):
        np.testing.assert_allclose(ours, [plain[0] - plain[1], plain[1] - plain[0]], atol=1e-7)
        assert over.tolist() == ends.tolist()
        assert [info["reward/improvement"] for info in infos] == [info["reward/improvement"] for info in others]
    assert infos[0]["episode"]["r"] == others[0]["episode"]["r"]
