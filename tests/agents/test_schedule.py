"""Schedules against an interpolation by hand, whatever types there are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ackd.agents.schedule import ProbeRule, Schedule
from ackd.agents.store import load, save
from ackd.envs.make import tiny
from ackd.errors import InputError
from ackd.mdp.action_spaces import weights_of
from ackd.mdp.observations import FAMILIES, FEATURES, GLOBALS

tables = st.integers(1, 5).flatmap(
    lambda knots: st.lists(
        st.lists(st.floats(-6, 6, width=32), min_size=len(FAMILIES), max_size=len(FAMILIES)),
        min_size=knots, max_size=knots,
    )
)  # fmt: skip


def observe(members: list[str], done: int, decisions: int, **told: float) -> dict[str, Tensor]:
    """As `ackd.mdp.observations` lays it out: a row for each member, and two that stand for nothing."""
    overview = torch.zeros(1, len(GLOBALS))
    overview[0, GLOBALS.index("progress")] = done / decisions
    overview[0, GLOBALS.index("horizon")] = math.log1p(decisions - done)
    for name, value in told.items():
        overview[0, GLOBALS.index(name)] = value
    knowledge = torch.zeros(1, len(members) + 2, len(FEATURES))
    for row, family in zip(knowledge[0], members, strict=False):
        row[FEATURES.index(f"is_{family}")] = 1.0
    mask = torch.tensor([[1] * len(members) + [0, 0]])
    return {"globals": overview, "knowledge": knowledge.flatten(1), "mask": mask}


@given(table=tables, members=st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=6), decisions=st.integers(1, 9))
def test_weights_are_those_of_the_middle_of_each_decision(
    table: list[list[float]], members: list[str], decisions: int
) -> None:
    schedule = Schedule(len(table), table)
    for done in range(decisions):
        middle = (done + 0.5) / decisions
        grid = np.linspace(0, 1, len(table)) if len(table) > 1 else np.array([0.0])
        logs = [float(np.interp(middle, grid, np.array(table)[:, FAMILIES.index(name)])) for name in members]
        action = schedule.act(observe(members, done, decisions), deterministic=True)[0]
        assert action[len(members) :].tolist() == [0, 0]
        for log, weight in zip(logs, weights_of(action[: len(members)].numpy()), strict=True):
            if abs(log + 2.5) > 1e-3:  # at the very edge, rounding decides
                assert weight == pytest.approx(2 ** min(log, 3.0) if log > -2.5 else 0.0, rel=0.01)


def test_weights_by_name_and_back() -> None:
    schedule = Schedule.of({"labels": [0.25, 1], "hidden": [2, 0], "logits": [0, 4]})
    told = schedule.weights()
    assert told["labels"].tolist() == [0.25, 1]
    assert told["hidden"].tolist() == [2, 0]
    assert told["logits"].tolist() == [0, 4]
    assert told["relation"].tolist() == [1, 1]


@given(middles=tables)
def test_a_schedule_through_some_decisions_repeats_them(middles: list[list[float]]) -> None:
    schedule, count = Schedule.through(middles), len(middles)
    for done, row in enumerate(middles):
        logs = schedule.logs(observe(list(FAMILIES), done, count))[0, : len(FAMILIES)]
        np.testing.assert_allclose(logs, row, atol=1e-4)


@pytest.mark.parametrize(
    "weights", [{}, {"labels": []}, {"labels": [1], "hidden": [1, 2]}, {"hiden": [1]}, {"labels": [-1]},
                {"labels": [math.inf]}, {"labels": [math.nan]}]
)  # fmt: skip
def test_weights_that_cannot_be_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a schedule"):
        Schedule.of(weights)


@pytest.mark.parametrize("kind", [Schedule, ProbeRule])
def test_it_is_saved_and_read_again(tmp_path: Path, kind: type[Schedule]) -> None:
    made = kind.of({"labels": [0.25, 1, 1], "hidden": [2, 0, 0]})
    save(tmp_path / "p", made, algorithm="cem", knowledge=("logits",), k_max=8)
    again = load(tmp_path / "p", k_max=5)
    assert type(again.network) is kind
    observation, _ = tiny(k_max=5, choice="weights").reset(seed=0)
    batch = {name: torch.as_tensor(value)[None] for name, value in observation.items()}
    np.testing.assert_array_equal(again.predict(observation)[0], made.act(batch, deterministic=True)[0])


@pytest.mark.parametrize(
    ("done", "overtaken", "alone"), [(0, 1.5, False), (1, 1.5, True), (3, 1.1, True), (1, 0.9, False), (1, 0.0, False)]
)
def test_an_overtaken_teacher_is_left_after_the_first_decision(done: int, overtaken: float, alone: bool) -> None:
    policy = ProbeRule(1)
    batch = observe(["labels", "logits", "hidden"], done, 4, overtaken=overtaken)
    weights = weights_of(policy.act(batch, deterministic=True)[0].numpy())
    assert weights.tolist() == ([1, 0, 0, 0, 0] if alone else [1, 1, 1, 0, 0])
