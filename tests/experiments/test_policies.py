"""How often a policy that adapts within a run has the student measured."""

from __future__ import annotations

import pytest

from ackd.envs.make import tiny
from ackd.experiments.policies import ONLINE_PRICE, online_phase


@pytest.mark.parametrize(("interval", "share"), [(1, 1.0), (3, 1.0), (6, 1.0), (2, 0.25), (12, 0.01)])
def test_measuring_takes_its_price_at_most_and_no_longer_than_it_has_to(interval: int, share: float) -> None:
    env = tiny(decision_interval=interval).variant(reward_share=share)
    passes = 3 * env.distillation.batch_size * interval  # of the student, for the steps of one decision
    asked = max(round(share * len(env.distillation.task.reward)), 1)
    phase = online_phase(env)
    assert asked <= ONLINE_PRICE * passes * phase
    assert phase == 1 or asked > ONLINE_PRICE * passes * (phase - 1)
