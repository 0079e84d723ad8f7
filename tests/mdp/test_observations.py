"""Observations: inside their space whatever happens, scale-free, and the same for the same episode."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackd.mdp.episode import Episode, Phase
from ackd.mdp.observations import FEATURES, GLOBALS, Signals
from ackd.types import EvalResult, Selection, StepMetrics

FAMILIES = {"logits": "logits", "hidden": "hidden", "attention": "attention"}
PRICES = {"logits": 0.6, "hidden": 0.8, "attention": 0.9}
SIGNALS = Signals(FAMILIES, PRICES, k_max=5)
anything = st.floats(allow_nan=True, allow_infinity=True)


def make_episode(values: list[float], scale: float = 1.0) -> Episode:
    """Phases whose losses are the values, twice the values, ... times a scale."""
    episode = Episode(EvalResult(2 * scale, 0.1), EvalResult(scale, 0.9), 100, 10)
    for i, value in enumerate(values):
        names = ("logits", "hidden") if i % 2 else ("logits",)
        report = StepMetrics(
            value,
            value * scale,
            value * scale,
            0.5,
            0.25 * i,
            {n: (j + 1) * value * scale for j, n in enumerate(names)},
        )
        eval_result = EvalResult(value * scale, 0.5)
        episode = episode.then(Phase(Selection.of(*names), report, eval_result, 10, 0.5, 60.0, 100.0))
    return episode


@given(values=st.lists(anything, max_size=6))
def test_observations_stay_in_their_space(values: list[float]) -> None:
    observation = SIGNALS.observe(make_episode(values))
    assert SIGNALS.space.contains(observation)


def test_an_observation_is_at_most_10() -> None:
    for value in (1e-30, 1e30):
        loss = features(make_episode([1.0, 1.0, value]), "logits")["loss"]
        assert loss == math.copysign(10.0, math.log(value))


def features(episode: Episode, name: str) -> dict[str, float]:
    rows = SIGNALS.observe(episode)["knowledge"].reshape(5, -1)
    return dict(zip(FEATURES, rows[list(FAMILIES).index(name)].tolist(), strict=True))


def overview(episode: Episode) -> dict[str, float]:
    return dict(zip(GLOBALS, SIGNALS.observe(episode)["globals"].tolist(), strict=True))


def test_the_start() -> None:
    seen = overview(make_episode([]))
    assert seen["progress"] == 0
    assert seen["horizon"] == pytest.approx(math.log(11))
    assert seen["uncertainty"] == seen["accuracy"] == 0
    assert seen["types"] == pytest.approx(3 / 5)
    row = features(make_episode([]), "hidden")
    assert row["available"] == 1
    assert row["is_hidden"] == 1
    assert row["cost"] == pytest.approx(0.8)
    assert row["loss"] == row["usage"] == row["is_logits"] == 0


def test_what_is_seen_later() -> None:
    episode = make_episode([1.6, 1.2, 0.8])
    seen = overview(episode)
    assert seen["progress"] == pytest.approx(0.3)
    assert seen["train_loss"] == pytest.approx(math.log(0.5))
    assert seen["train_slope"] == pytest.approx(math.log(0.8 / 1.2))
    assert seen["accuracy"] == pytest.approx(0.5)
    assert seen["accuracy_slope"] == pytest.approx(0.25)
    assert seen["uncertainty"] == pytest.approx(0.5)
    assert seen["cost"] == pytest.approx(0.6)
    logits, hidden = features(episode, "logits"), features(episode, "hidden")
    assert logits["loss"] == pytest.approx(math.log(0.5))
    assert logits["selected"] == 0.5
    assert logits["usage"] == 1
    assert logits["share"] == 1
    assert hidden["selected"] == 0
    assert hidden["usage"] == pytest.approx(1 / 3)
    assert hidden["share"] == 0


@given(scale=st.floats(0.1, 10))
def test_the_scale_of_the_losses_does_not_show(scale: float) -> None:
    values = [1.6, 1.2, 0.8]
    one, other = SIGNALS.observe(make_episode(values)), SIGNALS.observe(make_episode(values, scale))
    for key in one:
        np.testing.assert_allclose(one[key], other[key], atol=1e-5)


def test_surplus_bits_are_masked_and_answers_are_fresh() -> None:
    episode = make_episode([])
    one, other = SIGNALS.observe(episode), SIGNALS.observe(episode)
    assert one["mask"].tolist() == [1, 1, 1, 0, 0]
    assert not one["knowledge"].reshape(5, -1)[3:].any()
    for key in one:
        one[key][:] = 7
        assert not (other[key] == 7).any()
