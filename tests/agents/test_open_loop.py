"""What a policy does without looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ackd.agents.open_loop import MEAN, guarded, open_loop, replayed
from ackd.agents.residual_network import ResidualNetwork
from ackd.agents.schedule import ProbeRule, Schedule
from ackd.agents.set_network import SetNetwork
from ackd.agents.store import load, save
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.experiments.policies import arm
from ackd.mdp.observations import FAMILIES, FEATURES, GLOBALS

TABLE = [[0.0, 1.0, -3.0, 2.0, 0.0], [1.0, 1.0, 3.0, -1.0, 0.0]]
TYPES = ("logits", "hidden", "attention")


def saved(folder: Path, network: Any, **metrics: Any) -> Path:
    save(folder, network, algorithm="residual", knowledge=TYPES, k_max=8, metrics=metrics)
    return folder


def test_a_schedule_replays_itself(tmp_path: Path) -> None:
    made = Schedule(2, TABLE)
    for network in (made, ProbeRule(2, TABLE)):
        found = open_loop(load(saved(tmp_path / network.kind, network)))
        assert type(found) is Schedule
        np.testing.assert_array_equal(found.values, made.values)


def test_mean_actions_are_replayed_decision_by_decision(tmp_path: Path) -> None:
    network = ResidualNetwork(len(GLOBALS), len(FEATURES))
    policy = replayed(load(saved(tmp_path / "p", network, **{MEAN: TABLE})))
    env = tiny(choice="weights", decisions=2)
    observation, _ = env.reset(seed=0)
    for row in TABLE:
        action, _ = policy.predict(observation)
        expected = [row[FAMILIES.index(name)] for name in ("labels", *TYPES)]
        entries = np.clip((np.array(expected) + 3) / 6, 0, 1)
        np.testing.assert_allclose(action[:4], np.where(entries < 1 / 12, 0, entries), atol=1e-6)
        observation = env.step(action)[0]


def test_without_a_mean_it_is_the_schedule_that_was_corrected(tmp_path: Path) -> None:
    network = ResidualNetwork(len(GLOBALS), len(FEATURES), knots=2, values=TABLE)
    np.testing.assert_array_equal(open_loop(load(saved(tmp_path / "p", network))).values, network.schedule.values)
    assert isinstance(guarded(load(tmp_path / "p")).network, ProbeRule)


@pytest.mark.parametrize("mean", [[], [[1.0]], [["a"] * 5], [[1e400] * 5], {"a": 1}, [[0.0] * 5] * 40, 3])
def test_a_mean_that_cannot_be_is_refused(tmp_path: Path, mean: Any) -> None:
    network = ResidualNetwork(len(GLOBALS), len(FEATURES))
    policy = load(saved(tmp_path / "p", network))
    object.__setattr__(policy.card, "metrics", {MEAN: mean})
    with pytest.raises(InputError, match="cannot be read"):
        open_loop(policy)


def test_names_that_stand_for_no_such_policy_are_refused(tmp_path: Path) -> None:
    network = SetNetwork(len(GLOBALS), len(FEATURES))
    folder = saved(tmp_path / "p", network)
    with pytest.raises(InputError, match="keeps no mean actions"):
        arm(f"replay:{folder}", TYPES)
    with pytest.raises(InputError, match="'all' is a rule, and replay is made of a learned policy"):
        arm("replay:all", TYPES)
    with pytest.raises(InputError, match="unknown policy 'nonsense'"):
        arm("probe-rule:nonsense", TYPES)
